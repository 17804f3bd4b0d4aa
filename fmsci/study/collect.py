"""From run folders to records and a table. What is missing stays missing, it is never guessed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fmsci.evaluation import read_error
from fmsci.files import all_entries
from fmsci.study.board import valid_errors
from fmsci.study.jobs import Run
from fmsci.study.plan import Plan, chosen, repeats, waits, zero_shot_path
from fmsci.train.outcome import best_error, read_result

LATE, FELL, STRETCH = 0.95, 0.02, 0.8
"""A run had not settled where its best validation came after LATE of its steps, and was lower by more than FELL (of
it) than the best at STRETCH of them."""


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
    """Whether its validation error still fell at the end (see LATE)."""
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


def collect(planned: Plan) -> Found:
    """Return what is on disk of the planned study."""
    errors = valid_errors(planned)
    best = {group: chosen(group, errors) for group in planned.groups}
    rates = {(run.arm, run.model, run.task, run.samples, run.rate) for run in best.values() if run is not None}
    jobs = planned.jobs(errors)
    records: list[Record] = []
    pretraining: list[Record] = []
    for job in jobs:
        if isinstance(job, Run) and job.finished:
            is_best = (job.arm, job.model, job.task, job.samples, job.rate) in rates
            (pretraining if job.arm == "pretrain" else records).append(read_record(job, is_best))
    diverged = tuple(job.name for job in jobs if isinstance(job, Run) and job.diverged)
    unknown = [
        f"{group.task} {group.arm} {group.model} {group.samples} seed {seed}"
        for group in planned.groups
        for seed in planned.settings.seeds[1:]
        if waits(group, errors)
    ]
    return Found(
        tuple(records),
        tuple(pretraining),
        tuple(_comparisons(planned, records)),
        (*(job.name for job in jobs if not job.over), *unknown),
        diverged,
        tuple(run.name for run in repeats(planned, errors) if run is not None and run.name in diverged),
        planned.models[0].name,
    )


def read_record(run: Run, is_best: bool) -> Record:
    """Return the record of a finished run; of one on several data folders, the mean of its test errors."""
    result = read_result(run.folder)
    tests = [read_error(path) for path in run.results[1:]]
    return Record(
        task=run.task,
        arm=run.arm,
        model=run.model,
        samples=run.samples,
        rate=run.rate,
        seed=run.seed,
        chosen=is_best,
        valid=best_error(run.folder),
        test=sum(tests) / len(tests),
        steps=result.steps,
        samples_seen=result.samples_seen,
        best_step=result.best.step,
        unsettled=still_falling(validation_curve(run.folder / "metrics.jsonl"), result.steps),
        seconds=result.elapsed_s,
        device=result.device,
        device_name=result.device_name,
        torch=result.torch,
        host=result.host,
        processes=result.world_size,
        parameters=result.num_parameters,
        folder=str(run.folder),
    )


def validation_curve(path: Path) -> list[tuple[int, float]]:
    """Return (step, validation error) of a run's metrics; the mean over the systems where there are several."""
    curve = []
    for entry in all_entries(path):
        found = [value for name, value in entry.items() if name.startswith("valid/") and name.endswith("/rel_l2")]
        if found:
            curve.append((int(entry["step"]), float(entry.get("valid/rel_l2", sum(found) / len(found)))))
    return curve


def still_falling(curve: Sequence[tuple[int, float]], steps: int) -> bool:
    """Tell whether the validation error still fell at the end, so that more steps might have served: see LATE."""
    before = [error for step, error in curve if step <= STRETCH * steps]
    if not before:
        return False
    best_step, best = min(curve, key=lambda point: point[1])
    return best_step > LATE * steps and min(before) > (1 + FELL) * best


def _comparisons(planned: Plan, records: Sequence[Record]) -> list[Comparison]:
    wanted = len(planned.settings.seeds)

    def curve(task: str, arm: str, model: str) -> Curve:
        mine = [one for one in records if one.chosen and (one.task, one.arm, one.model) == (task, arm, model)]
        points = []
        for samples in planned.settings.samples:
            here = [one for one in mine if one.samples == samples]
            points.append(Point(samples, tuple(one.seed for one in here), tuple(one.test for one in here), wanted))
        return Curve(task, arm, model, tuple(points))

    found = []
    for model in planned.models:
        for task in model.tasks:
            path = zero_shot_path(planned.settings, planned.folders, model, task)
            found.append(
                Comparison(
                    task=task,
                    model=model.name,
                    label=model.label,
                    parameters=model.shape.num_parameters,
                    finetune=curve(task, "finetune", model.name),
                    scratch=curve(task, "scratch", model.label),
                    zero_shot=read_error(path) if path.exists() else None,
                )
            )
    return found
