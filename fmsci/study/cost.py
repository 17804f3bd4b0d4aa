"""What a study takes before anything starts: runs, steps, samples, hours of this machine as measured, disk."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fmsci.config import Open, TrainSettings, load_settings, parse
from fmsci.config.sections import Count, NonNegative, Positive
from fmsci.engine.traffic import FLOAT32
from fmsci.errors import Failure, UserError
from fmsci.files import read_json, write_json
from fmsci.generate import seconds_per_sample
from fmsci.model.sizes import Architecture
from fmsci.study.board import valid_errors
from fmsci.study.data import Source
from fmsci.study.jobs import Run
from fmsci.study.plan import STAGES, Plan
from fmsci.study.work import shape_of
from fmsci.world import child_environment, num_cores

START_S = 6.0
"""Seconds that a process takes before its first step and after its last: Python, torch, the test split, pictures."""

MOST_ON_CPU = 8
"""Samples of the larger of the two timed batches on a CPU: from there on a step's time grows in proportion."""

FILE_SHARE = 0.3
"""Writing a sample and its checksum, over making it (docs/benchmarks.md)."""


@dataclass(frozen=True)
class StageCost:
    """One stage: how many jobs, how many are finished; what all take, and what is left."""

    stage: str
    jobs: int
    finished: int
    steps: int
    samples_seen: int
    hours: float
    hours_left: float


@dataclass(frozen=True)
class Cost:
    """A study. Hours are of this machine with ``workers`` jobs at a time."""

    stages: tuple[StageCost, ...]
    device: str
    workers: int
    gpu_hours: float | None
    disk_bytes: int

    @property
    def hours(self) -> float:
        """All of it."""
        return sum(stage.hours for stage in self.stages)

    @property
    def hours_left(self) -> float:
        """What is not finished yet."""
        return sum(stage.hours_left for stage in self.stages)


def cost(planned: Plan) -> Cost:
    """Return what a study takes. Times a few training steps of each architecture, once for each study folder."""
    settings, errors = planned.settings, valid_errors(planned)
    base = load_settings(TrainSettings, settings.train, settings.overrides)
    timed = _Timed(planned, base)
    stages = []
    for name in STAGES:
        jobs = list(planned.stage(name, errors))
        if name == "repeats":  # a repeat costs what the sweep's run does, whichever rate it takes
            like = [group.sweep[0] for group in planned.groups for _ in settings.seeds[1:]]
            runs: list[Run | None] = list(like)
        else:
            runs = [job if isinstance(job, Run) else None for job in jobs]
        seconds = [START_S if run is None else START_S + timed.seconds(run) for run in runs]
        if name == "data":
            seconds = [START_S + timed.making(source) for source in planned.folders.sources.values()]
        done = [job is not None and job.over for job in jobs]
        on_cpu = timed.device == "cpu" or name == "data"
        at_once = settings.workers if on_cpu else min(settings.workers, settings.gpus)
        workers = max(1, min(at_once, len(jobs)))  # two on one GPU are no faster than one after the other
        stages.append(
            StageCost(
                stage=name,
                jobs=len(jobs),
                finished=sum(done),
                steps=sum(run.steps for run in runs if run is not None),
                samples_seen=sum(run.samples_seen for run in runs if run is not None),
                hours=sum(seconds) / workers / 3600,
                hours_left=sum(took for took, over in zip(seconds, done, strict=True) if not over) / workers / 3600,
            )
        )
    device = timed.device
    hours = sum(stage.hours for stage in stages if stage.stage != "data")  # a CPU's work
    gpu_hours = None if device == "cpu" else hours * settings.gpus
    return Cost(tuple(stages), device, settings.workers, gpu_hours, _disk(planned))


S = TypeVar("S", bound=Open)


class StepTimes(Open):
    """What :func:`fmsci.train.throughput.throughput` measured."""

    batches: tuple[Count, Count]
    step_s: tuple[Positive, Positive]
    predict_s: NonNegative
    device: str


class SampleTime(Open):
    """What one process takes to make a sample and its part of a file."""

    sample_s: Positive


class _Timed:
    """Seconds of runs, from measured steps: of a small and of a large batch, a line between and beyond them."""

    def __init__(self, planned: Plan, base: TrainSettings) -> None:
        self._planned, self._base = planned, base
        self._path = planned.settings.run / "throughput.json"
        self._known = read_json(self._path) if self._path.exists() else {}
        if not isinstance(self._known, dict):
            raise UserError(f"{self._path} holds no times; remove the file to measure anew")
        self.device = "cpu"

    def seconds(self, run: Run) -> float:
        shape, grid = shape_of(self._planned, run)
        if not grid:
            return 0.0  # of data that are still to come nothing is known
        wanted = self._base
        if run.arm == "pretrain":
            wanted = load_settings(TrainSettings, Path(run.words[1]), run.words[2:-1])
        timed = self._steps(shape, grid, wanted)
        self.device = timed.device
        (small, large), (few, many) = timed.batches, timed.step_s
        slope = max(0.0, (many - few) / (large - small)) if large > small else 0.0
        batch = run.samples_seen / run.steps
        return float(
            run.steps * max(few + slope * (batch - small), few * min(1.0, batch / small))
            + self._validated(run, wanted) * timed.predict_s
        )

    def _validated(self, run: Run, wanted: TrainSettings) -> int:
        """Return over how many samples a run validates in all."""
        settings, folders = self._planned.settings, self._planned.folders
        every = wanted.monitor.validate_steps
        data, times = wanted.data.folders, run.steps // every if every else wanted.optim.epochs
        if run.arm != "pretrain":
            data, times = (settings.tasks[run.task],), settings.validations
        counts = [int(folders[one]["counts"]["valid"]) for one in data]
        most = wanted.data.valid_samples
        return times * sum(count if most is None else min(count, most) for count in counts)

    def making(self, source: Source) -> float:
        """Return the seconds that one process takes for a data folder."""
        wanted = source.settings
        asked = {"system": wanted.system, "range": wanted.range, "grid": wanted.grid, "options": wanted.options}
        one = self._once(SampleTime, asked, lambda: {"sample_s": seconds_per_sample(wanted) * (1 + FILE_SHARE)})
        return (wanted.train + wanted.valid + wanted.test) * one.sample_s

    def _steps(self, shape: Architecture, grid: int, wanted: TrainSettings) -> StepTimes:
        threads = max(1, num_cores() // self._planned.settings.workers)
        engine = wanted.engine
        asked = {
            "width": shape.width,
            "modes": shape.modes,
            "layers": shape.layers,
            "channels": 4,
            "grid": grid,
            "most": {"cpu": min(MOST_ON_CPU, wanted.optim.batch_size), "cuda": wanted.optim.batch_size},
            "device": engine.device,
            "threads": threads,
            "precision": engine.precision,
        }
        return self._once(StepTimes, asked, lambda: _measure(asked))

    def _once(self, cls: type[S], asked: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> S:
        """Return what was measured on this host for what is asked, now or by an earlier plan of this study.

        Raises UserError where the file of earlier ones is damaged.
        """
        key = f"{platform.node()} {json.dumps(asked, sort_keys=True)}"
        if key not in self._known:
            self._known[key] = measure()
            write_json(self._path, self._known)
        try:
            return parse(cls, self._known[key], str(self._path))
        except UserError as error:
            raise UserError(f"{error}; remove the file to measure anew") from None


def _measure(asked: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "fmsci.train.throughput"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        env=child_environment(OMP_NUM_THREADS=str(asked["threads"])),
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Failure(f"timing a model of width {asked['width']} with {asked['modes']} modes failed: {said}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _disk(planned: Plan) -> int:
    """Bytes of data, of a model for each run, and of the checkpoints that stay or are there at the same time."""
    data = sum(source.num_bytes for source in planned.folders.sources.values())
    sizes = [shape_of(planned, run)[0].num_parameters * FLOAT32 for run in planned.sweep]
    repeats = sum(shape_of(planned, group.sweep[0])[0].num_parameters * FLOAT32 for group in planned.groups)
    models = sum(sizes) + repeats * (len(planned.settings.seeds) - 1)
    pretrained = [shape_of(planned, run)[0].num_parameters * FLOAT32 for run in planned.pretraining]
    checkpoints = 3 * 3 * sum(pretrained) + 2 * 3 * planned.settings.workers * max(sizes, default=0)
    return data + models + sum(pretrained) + checkpoints
