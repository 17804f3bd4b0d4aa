"""How far a study is: what is finished, what can start, how much work is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fmsci.study.downstream import Group
from fmsci.study.jobs import Job, Run
from fmsci.study.plan import STAGES, Plan, group_of, hopeless, waits
from fmsci.study.pool import last_line
from fmsci.study.work import work_of
from fmsci.train.entries import METRICS, last_entries


def valid_errors(planned: Plan) -> dict[Path, float]:
    """Return the best validation error of every run of the sweep that is finished; infinite where it diverged."""
    return errors_of(planned.sweep)


def errors_of(runs: Iterable[Run]) -> dict[Path, float]:
    """Return the best validation error of those of some runs that are finished; infinite where it diverged."""
    errors = {run.folder: run.valid_error for run in runs}
    return {folder: error for folder, error in errors.items() if error is not None}


def jobs_left(planned: Plan, stage: str) -> list[int]:
    """Return the numbers of the jobs of a stage that have no result yet and may come to have one."""
    errors = valid_errors(planned) if stage == "repeats" else {}
    return [
        number
        for number, job in enumerate(planned.stage(stage, errors))
        if (not job.over if job is not None else waits(group_of(planned, number), errors))
    ]


def steps_done(folder: Path) -> int:
    """Return the last step that a run has written to its metrics; 0 where there is none yet."""
    entries = last_entries(folder / METRICS)
    return int(entries[-1]["step"]) if entries else 0


class Board:
    """What is known of the jobs of some studies (or of one stage), as of the last look. A job of several counts once.

    Work is counted in floating-point operations: the steps of large and small models differ.
    """

    def __init__(self, plans: Sequence[Plan], stage: str | None) -> None:
        self.plans, self.stage = tuple(plans), stage
        self.waiting: list[Job] = []
        """What is not finished, in the order in which it should start."""
        self.finished = 0
        self.hopeless: tuple[str, ...] = ()
        """A sentence for each group of which every learning rate diverged, where its sweep or repeats are asked for."""
        self._lost: set[Path] = set()
        """The first results of these groups: their repeats never come."""
        self._over: dict[Path, bool] = {}
        self._errors: dict[Path, float | None] = {}
        self._work: dict[Path, float] = {}
        self._done: dict[Path, float] = {}
        self.look()

    def look(self, ended: Iterable[Job] = ()) -> None:
        """Look at the folders of the jobs that have ``ended`` since the last look, and of those never looked at.

        The others are as they were: nobody else makes runs there, and to look at thousands after each one takes longer
        than many a job.
        """
        for job in ended:
            self._over.pop(job.makes, None)
            if isinstance(job, Run):
                self._errors.pop(job.folder, None)
        jobs: dict[Path, Job] = {}
        lost: dict[Path, str] = {}
        for planned in self.plans:
            errors = self._valid_errors(planned)
            for group in planned.groups:
                if hopeless(group, errors):
                    lost[group.sweep[0].makes] = diverged(group)
            for job in planned.jobs(errors):
                if self.stage in (None, job.stage) and job.makes not in jobs:
                    jobs[job.makes] = job
                    if job.makes not in self._work:
                        self._work[job.makes] = work_of(planned, job)
        for key in jobs.keys() - self._over.keys():
            self._over[key] = jobs[key].over
        waiting = [job for key, job in jobs.items() if not self._over[key]]
        # All stages of one study before the next one's would leave the others without an answer for long: a stage of
        # all of them, then the next one. So each has its curves with one seed first, then its bands.
        self.waiting = sorted(waiting, key=lambda job: STAGES.index(job.stage))
        self.finished = len(jobs) - len(self.waiting)
        self._lost = set(lost)
        self.hopeless = tuple(lost.values()) if {"sweep", "repeats"} & set(self._stages) else ()
        left = {job.makes for job in self.waiting}
        for key, job in jobs.items():
            if key not in left:
                self._done[key] = self._work[key]
            elif isinstance(job, Run):
                self._done[key] = self._share(job)

    def _valid_errors(self, planned: Plan) -> dict[Path, float]:
        found: dict[Path, float] = {}
        for run in planned.sweep:
            if run.folder not in self._errors:
                self._errors[run.folder] = run.valid_error
            error = self._errors[run.folder]
            found |= {} if error is None else {run.folder: error}
        return found

    def _share(self, run: Run) -> float:
        return self._work[run.makes] * min(1.0, steps_done(run.folder) / max(1, run.steps))  # 0: of unknown data

    @property
    def _stages(self) -> tuple[str, ...]:
        return STAGES if self.stage is None else (self.stage,)

    @property
    def count(self) -> int:
        """How many jobs there are, those included that are not known yet."""
        known = {job.makes for _, job in self._known()}
        return len(known) + sum(again for _, _, again in self._repeated())

    @property
    def total(self) -> int:
        """All the work, GFLOP."""
        known = {job.makes: work_of(planned, job) for planned, job in self._known()}
        repeats = sum(again * work_of(planned, group.sweep[0]) for planned, group, again in self._repeated())
        return round(sum(known.values()) + repeats)

    def _known(self) -> Iterator[tuple[Plan, Job]]:
        """Yield the jobs that do not wait for the choice of a learning rate."""
        for planned in self.plans:
            for name in self._stages:
                yield from ((planned, job) for job in planned.stage(name, {}) if job is not None)

    def _repeated(self) -> Iterator[tuple[Plan, Group, int]]:
        """Yield what is repeated, each only once, and how often; nothing that diverged at every learning rate."""
        seen: dict[Path, int] = {}
        for planned in self.plans if "repeats" in self._stages else ():
            again = len(planned.settings.seeds) - 1
            for group in planned.groups:
                more = again - seen.get(group.sweep[0].makes, 0)
                if more > 0 and group.sweep[0].makes not in self._lost:
                    seen[group.sweep[0].makes] = again
                    yield planned, group, more

    def done(self, running: Iterable[Job] = ()) -> int:
        """Return the work done, GFLOP; that of ``running`` jobs up to their last entry."""
        for job in running:
            if isinstance(job, Run):
                self._done[job.makes] = self._share(job)
        return round(sum(self._done.values()))


def diverged(group: Group) -> str:
    """Return the sentence about a group whose every learning rate diverged."""
    run = group.sweep[-1]
    rates = ", ".join(f"{one.rate:g}" for one in group.sweep)
    return f"{run.name} failed at every learning rate ({rates}): {last_line(run.log)} (see {run.log})"
