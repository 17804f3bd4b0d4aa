"""Which runs a study needs: a pure function of its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fmsci.config import StudySettings, TrainSettings, load_settings
from fmsci.dataset.order import num_batches
from fmsci.evaluate import evaluation_path

ARMS = ("finetune", "scratch")


@dataclass(frozen=True)
class PlannedRun:
    """One training run: arm, samples, folder, steps, the file of its test error, settings over the study's base."""

    arm: str
    samples: int
    folder: Path
    steps: int
    evaluation: Path
    overrides: tuple[str, ...]


def plan(settings: StudySettings) -> tuple[PlannedRun, ...]:
    """Return the runs of Q1: for each number of samples one fine-tuned and one from scratch, else alike.

    Both arms take the same number of optimizer steps, so neither has seen more samples than the other.
    """
    runs = []
    base = load_settings(TrainSettings, settings.train, settings.overrides)
    for samples in settings.samples:
        batch_size, epochs = base.optim.batch_size, base.optim.epochs
        if settings.steps is not None:
            epochs = epochs_for(settings.steps, samples, batch_size)
        for arm in ARMS:
            folder = settings.run / f"{arm}-{samples}"
            own = [f"run={folder}", f"data.train_samples={samples}"]
            own.append(f"init={settings.pretrained}" if arm == "finetune" else "init=null")
            own.append(f"optim.epochs={epochs}")
            steps = epochs * num_batches(samples, batch_size)
            evaluation = evaluation_path(folder / "model", base.data.folders[0], "test")
            runs.append(PlannedRun(arm, samples, folder, steps, evaluation, (*settings.overrides, *own)))
    return tuple(runs)


def epochs_for(steps: int, samples: int, batch_size: int) -> int:
    """Return the whole epochs of ``samples`` that hold at least ``steps`` optimizer steps."""
    return -(-steps // num_batches(samples, batch_size))
