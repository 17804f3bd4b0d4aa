"""From run folders to what there is of a study. What is missing stays missing, it is never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fmsci.evaluation import read_error
from fmsci.study.board import valid_errors
from fmsci.study.found import Comparison, Curve, Found, Point, Record
from fmsci.study.jobs import Run
from fmsci.study.plan import Plan, chosen, repeats, waits, zero_shot_path
from fmsci.train.entries import METRICS, each_entry
from fmsci.train.outcome import best_error, read_result

LATE, FELL, STRETCH = 0.95, 0.02, 0.8
"""A run had not settled where its best validation came after LATE of its steps, and was lower by more than FELL (of
it) than the best at STRETCH of them."""


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
        unsettled=still_falling(validation_curve(run.folder), result.steps),
        seconds=result.elapsed_s,
        device=result.device,
        device_name=result.device_name,
        torch=result.torch,
        host=result.host,
        processes=result.world_size,
        parameters=result.num_parameters,
        folder=str(run.folder),
    )


def validation_curve(run: Path) -> list[tuple[int, float]]:
    """Return (step, validation error) of a run folder; the mean over the systems where there are several."""
    curve = []
    for entry in each_entry(run / METRICS, b'"valid/'):  # one of many, in a long run
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
