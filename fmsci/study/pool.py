"""The jobs of a study that run, a few at a time, each with its share of the cores; all are told when to stop."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

from fmsci.config import StudySettings
from fmsci.errors import EXIT_REQUEUE
from fmsci.study.jobs import Job, Run
from fmsci.study.worker import Single, Worker
from fmsci.terminal import warn, warnings_in
from fmsci.world import num_cores, one_gpu


class Pool:
    """The running jobs. Leaving it ends them: each saves first.

    Jobs that train or measure take turns in a few processes, as torch takes seconds to start.
    """

    def __init__(self, settings: StudySettings) -> None:
        self.settings = settings
        self.stopping = False
        self.failed: dict[Path, str] = {}
        """What went wrong, by the first result of the job."""
        self._running: list[Single | Worker] = []
        self._idle: list[Worker] = []
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Pool:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
            self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._everyone:
            one.stop()
        for one in self._everyone:
            one.process.wait()
            if isinstance(one, Worker):
                one.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        for one in self._everyone:
            one.stop()

    @property
    def _everyone(self) -> list[Single | Worker]:
        return [*self._running, *self._idle]

    @property
    def jobs(self) -> list[Job]:
        """The jobs that run."""
        return [one.job for one in self._running]

    @property
    def has_room(self) -> bool:
        """Whether another job may start."""
        return len(self._running) < self.settings.workers and not self.stopping

    def start(self, job: Job, at_once: int) -> None:
        """Start a job as one of ``at_once``, which share the cores; what it prints goes to its log."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        threads = max(1, num_cores() // at_once)
        if job.words[0] == "generate":  # it needs no torch
            self._running.append(Single(job, threads))
        else:
            self._keep(self._idle)  # one may have died meanwhile
            worker = self._idle.pop() if self._idle else self._hire(job)
            self._running.append(worker)
            worker.start(job, (f"engine.threads={threads}",) if isinstance(job, Run) else ())
        if self.stopping:  # asked in this very moment
            self._running[-1].stop()

    def _keep(self, workers: list[Worker]) -> None:
        """Take as idle those of the workers that live."""
        self._idle = []
        for one in workers:
            if one.process.poll() is None:
                self._idle.append(one)
            else:
                one.close()

    def _hire(self, job: Job) -> Worker:
        """Return a new process for this job and later ones, on the GPU that has the fewest."""
        places = [one.place for one in self._everyone if isinstance(one, Worker)]
        place = min(set(range(len(places) + 1)) - set(places))
        variables = {"OMP_NUM_THREADS": str(max(1, num_cores() // self.settings.workers))}
        if self.settings.gpus > 1:
            variables |= one_gpu(place, self.settings.gpus)
        return Worker(job, place, variables)

    def ended(self) -> list[Job]:
        """Return the jobs that came to their end since the last look; those that failed are in ``failed``.

        A run that diverged has come to its end: it would diverge again.
        """
        ended = [one for one in self._running if one.ended()]
        self._running = [one for one in self._running if one not in ended]
        self._keep([*self._idle, *(one for one in ended if isinstance(one, Worker))])
        for one in ended:
            if one.code == EXIT_REQUEUE:  # it was asked to stop before we were
                self.stopping = True
            elif not one.job.over and not self.stopping:
                self.failed[one.job.makes] = f"{one.job.name} failed: {last_line(one.job.log)} (see {one.job.log})"
                warn(self.failed[one.job.makes])
        return [one.job for one in ended if one.job.over]


def last_line(path: Path) -> str:
    """Return what a job said last, its own sentence before anything else."""
    if not path.exists():
        return "it printed nothing"
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (warnings_in(path) or lines or ["it printed nothing"])[-1]
