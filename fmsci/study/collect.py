"""From run folders to the table of a study. Missing runs stay missing, they are never guessed."""

from __future__ import annotations

from dataclasses import dataclass

from fmsci.config import StudySettings, TrainSettings, load_settings
from fmsci.files import read_json
from fmsci.study.execute import finished, test_error
from fmsci.study.plan import plan


@dataclass(frozen=True)
class Row:
    """Test errors at one number of downstream samples; None where the run is missing."""

    samples: int
    finetuned: float | None
    scratch: float | None

    @property
    def ratio(self) -> float | None:
        """error(fine-tuned) / error(scratch)."""
        if self.finetuned is None or self.scratch is None:
            return None
        return self.finetuned / self.scratch


@dataclass(frozen=True)
class Table:
    """The rows of Q1 and the pretrained model's error on the downstream data without any fine-tuning."""

    rows: tuple[Row, ...]
    zero_shot: float | None


def collect(settings: StudySettings) -> Table:
    """Return the table from what is on disk."""
    errors = {(run.arm, run.samples): test_error(run) for run in plan(settings) if finished(run)}
    rows = tuple(
        Row(samples, errors.get(("finetune", samples)), errors.get(("scratch", samples)))
        for samples in settings.samples
    )
    return Table(rows, _zero_shot(settings))


def _zero_shot(settings: StudySettings) -> float | None:
    data = load_settings(TrainSettings, settings.train, settings.overrides).data.folders[0]
    path = settings.pretrained.parent / "evaluations" / f"{data.name}-test.json"
    return float(read_json(path)["rel_l2"]) if path.exists() else None
