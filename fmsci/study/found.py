"""What there is of a study: records of runs, curves over the samples, comparisons. Data alone, however they came."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """One finished run."""

    task: str
    arm: str
    model: str
    samples: int
    rate: float | None
    seed: int
    chosen: bool
    """Whether its learning rate is the one with the smallest validation error."""
    valid: float
    test: float
    steps: int
    samples_seen: int
    best_step: int
    unsettled: bool
    """Whether its validation error still fell at the end (see :func:`fmsci.study.collect.still_falling`)."""
    seconds: float
    device: str
    device_name: str
    torch: str
    host: str
    processes: int
    parameters: int
    folder: str


@dataclass(frozen=True)
class Point:
    """An arm at one number of samples: its errors at the chosen rate; nothing where they are missing."""

    samples: int
    seeds: tuple[int, ...]
    """Those that are there, in the order of ``errors``."""
    errors: tuple[float, ...]
    wanted: int
    """How many seeds there should be."""

    @property
    def median(self) -> float | None:
        """The median test error over the seeds that are there."""
        return statistics.median(self.errors) if self.errors else None


@dataclass(frozen=True)
class Curve:
    """The error of one arm of one model on one task against the number of samples."""

    task: str
    arm: str
    model: str
    points: tuple[Point, ...]

    @property
    def medians(self) -> list[tuple[int, float]]:
        """The points that are there."""
        return [(point.samples, point.median) for point in self.points if point.median is not None]


@dataclass(frozen=True)
class Comparison:
    """One pretrained model on one task: fine-tuned, from scratch, and as it is."""

    task: str
    model: str
    label: str
    """The architecture's name."""
    parameters: int
    finetune: Curve
    scratch: Curve
    zero_shot: float | None


@dataclass(frozen=True)
class Row:
    """Median test errors at one number of samples; None where every run is missing."""

    task: str
    model: str
    samples: int
    finetuned: float | None
    scratch: float | None
    finetuned_seeds: int
    """Over how many seeds the median is; fewer than asked for where runs are missing, or a repeat diverged."""
    scratch_seeds: int

    @property
    def ratio(self) -> float | None:
        """error(fine-tuned) / error(scratch)."""
        if self.finetuned is None or self.scratch is None:
            return None
        return self.finetuned / self.scratch


@dataclass(frozen=True)
class Found:
    """What there is of a study."""

    records: tuple[Record, ...]
    pretraining: tuple[Record, ...]
    comparisons: tuple[Comparison, ...]
    missing: tuple[str, ...]
    """Names of the jobs without a result; of a repeat whose rate is open, what it repeats."""
    diverged: tuple[str, ...]
    diverged_repeats: tuple[str, ...]
    """Those of them at the rate that was chosen: their seeds are left out of the medians."""
    reference: str
    """The name of the first pretrained model."""

    @property
    def rows(self) -> list[Row]:
        """Every comparison at every number of samples."""
        return [
            Row(one.task, one.model, tuned.samples, tuned.median, scratch.median, len(tuned.seeds), len(scratch.seeds))
            for one in self.comparisons
            for tuned, scratch in zip(one.finetune.points, one.scratch.points, strict=True)
        ]
