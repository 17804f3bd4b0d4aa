"""One process of a study's pool: ``fmsci worker``, which runs its jobs one after the other, or one for a single job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from fmsci.study.jobs import Job
from fmsci.world import child_environment, end_with_parent


class Single:
    """A process for one job."""

    def __init__(self, job: Job, threads: int) -> None:
        self.job = job
        self.code: int | None = None
        self.process = _popen(job, job.words, {"OMP_NUM_THREADS": str(threads)})

    def ended(self) -> bool:
        """Look whether the job has ended; ``code`` is its exit code then."""
        self.code = self.process.poll()
        return self.code is not None

    def stop(self) -> None:
        """Ask it to save and stop."""
        self.process.terminate()


class Worker:
    """A process for one job after the other. ``place`` tells it from the others."""

    def __init__(self, job: Job, place: int, variables: Mapping[str, str]) -> None:
        self.job, self.place = job, place
        self.code: int | None = None
        self.process = _popen(job, ("worker",), variables, pipes=True)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def start(self, job: Job, more: Sequence[str] = ()) -> None:
        """Hand it its next job, with ``more`` behind its words; it must have none."""
        self.job, self.code = job, None
        assert self.process.stdin is not None
        line = json.dumps({"words": [*job.words, *more], "log": str(job.log)}) + "\n"
        with suppress(BrokenPipeError, ValueError):  # it has died, or is told to stop: the next look finds that
            self.process.stdin.write(line.encode())

    def ended(self) -> bool:
        """Look whether its job has ended; ``code`` is the job's exit code then, or that of a process that died."""
        died = self.process.poll()
        assert self.process.stdout is not None
        answer = self.process.stdout.read()  # of a process that has died, too: it may have answered first
        self.code = json.loads(answer)["code"] if answer else died
        return self.code is not None

    def stop(self) -> None:
        """Ask it to save and stop; there will be no more jobs."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.terminate()

    def close(self) -> None:
        """Close what leads to a process that has ended."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def _popen(
    job: Job, words: Sequence[str], variables: Mapping[str, str], pipes: bool = False
) -> subprocess.Popen[bytes]:
    with job.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fmsci", *words],
            bufsize=0,
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else log,
            stderr=log,
            env=child_environment(**variables),
            start_new_session=True,  # Ctrl-C reaches it once, through us
            preexec_fn=end_with_parent,  # and if we are killed outright, it is asked to save and stop
        )
