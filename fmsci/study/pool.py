"""Processes of a study: each job is one, with its share of the cores; a signal to stop is passed on to all."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from fmsci.config import StudySettings
from fmsci.errors import EXIT_REQUEUE, UserError
from fmsci.study.jobs import Job, Run
from fmsci.terminal import warnings_in
from fmsci.world import child_environment, end_with_parent, num_cores


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    place: int
    """0 .. workers - 1: which of the GPUs it takes."""


class Pool:
    """The running jobs. Leaving it ends them: each saves first."""

    def __init__(self, settings: StudySettings) -> None:
        self.settings = settings
        self.stopping = False
        self._running: list[_Running] = []
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Pool:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
            self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._running:
            one.process.terminate()
        for one in self._running:
            one.process.wait()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        for one in self._running:
            one.process.terminate()

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
        command = [sys.executable, "-m", "fmsci", *job.words]
        if isinstance(job, Run):
            command.append(f"engine.threads={threads}")
        environment = child_environment(OMP_NUM_THREADS=str(threads))
        place = min(set(range(self.settings.workers)) - {one.place for one in self._running})
        if self.settings.gpus > 1:
            environment["CUDA_VISIBLE_DEVICES"] = str(place % self.settings.gpus)
        with job.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches it once, through us
                preexec_fn=end_with_parent,  # and if we are killed outright, it is asked to save and stop
            )
        self._running.append(_Running(job, process, place))
        if self.stopping:  # asked in this very moment
            process.terminate()

    def ended(self) -> list[Job]:
        """Return the jobs that came to their end since the last look; UserError for one that failed.

        A run that diverged has come to its end: it would diverge again.
        """
        ended = [one for one in self._running if one.process.poll() is not None]
        self._running = [one for one in self._running if one not in ended]
        for one in ended:
            code, job = one.process.returncode, one.job
            if code == EXIT_REQUEUE:  # it was asked to stop before we were
                self.stopping = True
            elif not job.over and not self.stopping:
                raise UserError(f"the run {job.name} failed: {last_line(job.log)} (see {job.log})")
        return [one.job for one in ended if one.job.over]


def last_line(path: Path) -> str:
    """Return what a job said last, its own sentence before anything else."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (warnings_in(path) or lines or ["it printed nothing"])[-1]
