"""How far a study is: what is finished, what can start, how much work is left."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from fmsci.errors import UserError
from fmsci.files import last_entries
from fmsci.study.downstream import Group
from fmsci.study.jobs import Job, Run
from fmsci.study.plan import STAGES, Plan
from fmsci.study.pool import last_line
from fmsci.study.work import work_of


def valid_errors(planned: Plan) -> dict[Path, float]:
    """Return the best validation error of every run of the sweep that is finished; infinite where it diverged."""
    errors = {run.folder: run.valid_error for run in planned.sweep}
    return {folder: error for folder, error in errors.items() if error is not None}


def jobs_of(planned: Plan, stage: str) -> tuple[Job | None, ...]:
    """Return the jobs of a stage by number, as far as they are known now: only repeats need the sweep's errors."""
    return planned.stage(stage, valid_errors(planned) if stage == "repeats" else {})


def steps_done(folder: Path) -> int:
    """Return the last step that a run has written to its metrics; 0 where there is none yet."""
    entries = last_entries(folder / "metrics.jsonl")
    return int(entries[-1]["step"]) if entries else 0


class Board:
    """What is known of the jobs of a study (or of one stage), as of the last look.

    Work is counted in floating-point operations: the steps of large and small models differ.
    """

    def __init__(self, planned: Plan, stage: str | None) -> None:
        self.planned, self.stage = planned, stage
        self.waiting: list[Job] = []
        self.finished = 0
        self._work: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self.look()

    def look(self) -> None:
        """Look at the folders of all jobs. Raises UserError where a run diverged at every learning rate."""
        errors = valid_errors(self.planned)
        for group in self.planned.groups:
            if all(math.isinf(errors.get(run.folder, 0.0)) for run in group.sweep):
                raise UserError(_diverged(group))
        jobs = [job for job in self.planned.jobs(errors) if self.stage in (None, job.stage)]
        self.waiting = [job for job in jobs if not job.over]
        self.finished = len(jobs) - len(self.waiting)
        waiting = {job.name for job in self.waiting}
        for job in jobs:
            if job.name not in self._work:
                self._work[job.name] = work_of(self.planned, job)
            if job.name not in waiting:
                self._done[job.name] = self._work[job.name]
            elif isinstance(job, Run):
                self._done[job.name] = self._share(job)

    def _share(self, run: Run) -> float:
        return self._work[run.name] * min(1.0, steps_done(run.folder) / run.steps)

    @property
    def _stages(self) -> tuple[str, ...]:
        return STAGES if self.stage is None else (self.stage,)

    @property
    def count(self) -> int:
        """How many jobs there are, those included that are not known yet."""
        return sum(len(self.planned.stage(name, {})) for name in self._stages)

    @property
    def total(self) -> int:
        """All the work, GFLOP."""
        known = [job for name in self._stages for job in self.planned.stage(name, {}) if job is not None]
        first = [work_of(self.planned, group.sweep[0]) for group in self.planned.groups]
        repeats = sum(first) * (len(self.planned.settings.seeds) - 1) if "repeats" in self._stages else 0.0
        return round(sum(work_of(self.planned, job) for job in known) + repeats)

    def done(self, running: Iterable[Job] = ()) -> int:
        """Return the work done, GFLOP; that of ``running`` jobs up to their last entry."""
        for job in running:
            if isinstance(job, Run):
                self._done[job.name] = self._share(job)
        return round(sum(self._done.values()))


def _diverged(group: Group) -> str:
    run = group.sweep[-1]
    rates = ", ".join(f"{one.rate:g}" for one in group.sweep)
    return f"the run {run.name} failed at every learning rate ({rates}): {last_line(run.log)} (see {run.log})"
