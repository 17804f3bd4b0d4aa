"""One command of a study: what it is called with, what must be there before, what is there when it is done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from fmsci.evaluation import evaluation_path, read_evaluation
from fmsci.train.outcome import RESULT, best_error, read_outcome


@dataclass(frozen=True)
class Tested:
    """The data that a test error is of, as ``fmsci evaluate`` tells them."""

    system: str
    range: tuple[float, ...]
    grid: int
    count: int
    content: str
    """The hash of what decides every sample; results of earlier versions have none."""

    def is_in(self, path: Path) -> bool:
        """Tell whether the error in a file is of these data; UserError where the file holds none."""
        told = read_evaluation(path)
        return all(getattr(told, name) in (None, value) for name, value in asdict(self).items())


@dataclass(frozen=True)
class Job:
    """``fmsci WORDS``. It can start when all ``needs`` are there, and is finished when all ``results`` are."""

    stage: str
    """One of STAGES."""
    name: str
    words: tuple[str, ...]
    results: tuple[Path, ...]
    needs: tuple[Path, ...]
    log: Path

    @property
    def makes(self) -> Path:
        """The first of its results: what tells it from every other job, also from those of other studies."""
        return self.results[0]

    @property
    def finished(self) -> bool:
        """Whether all that it makes is there."""
        return all(path.exists() for path in self.results)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.finished

    @property
    def ready(self) -> bool:
        """Whether all that it needs is there."""
        return all(path.exists() for path in self.needs)


@dataclass(frozen=True)
class Run(Job):
    """A training run: pretraining, fine-tuning or from scratch, and all that tells it from the others."""

    key: str
    """The hash of all that its result depends on."""
    arm: str
    """pretrain, finetune or scratch."""
    model: str
    """The pretrained model's name; of a run from scratch the architecture's."""
    task: str
    samples: int
    rate: float | None
    seed: int
    steps: int
    samples_seen: int
    folder: Path
    tests: tuple[Tested | None, ...] = ()
    """What each of its test errors, the results from the second on, has to be measured on; None: not known yet."""

    @property
    def finished(self) -> bool:
        """Whether its results are there, and are of the data of this study: others may have the same name."""
        pairs = zip(self.tests, self.results[1:], strict=False)
        return super().finished and all(wanted is None or wanted.is_in(path) for wanted, path in pairs)

    @property
    def evaluation(self) -> Path:
        """The file of its (first) test error."""
        return self.results[1]

    @property
    def diverged(self) -> bool:
        """Whether it ended because training diverged: it would do so again, so it counts as done in a sweep."""
        outcome = None if self.finished else read_outcome(self.folder)
        return outcome is not None and outcome.diverged

    @property
    def over(self) -> bool:
        """Whether it is finished, or diverged; a pretraining that diverged is a mistake to mend."""
        return self.finished or (self.arm != "pretrain" and self.diverged)

    @property
    def valid_error(self) -> float | None:
        """The best validation error; infinite where it diverged, None where it is not finished."""
        if self.finished:
            return best_error(self.folder)
        return float("inf") if self.diverged else None


def run_results(folder: Path, data: Path) -> tuple[Path, Path]:
    """Return the files that a downstream run leaves: its result, its error on the task's test split."""
    return folder / RESULT, evaluation_path(folder / "model", data, "test")
