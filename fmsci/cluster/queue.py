"""Slurm's own commands: what is in the queue, and putting something there. The only caller of squeue and sbatch."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fmsci.errors import UserError

TIMEOUT_S = 60.0

ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
"""The job states of squeue's documentation (JOB STATE CODES) that a job does not leave by itself."""


class NoSlurmError(UserError):
    """There is no Slurm here, or it does not answer: nothing is known, and nothing was refused."""


@dataclass(frozen=True)
class Queued:
    """A job in the queue, or ended a few minutes ago: Slurm's state, why it waits, time left of its limit."""

    state: str
    reason: str
    left: str

    @property
    def alive(self) -> bool:
        """True while the job runs or may run yet; also in a state that a later Slurm has added."""
        return self.state not in ENDED and self.reason != "DependencyNeverSatisfied"


@dataclass(frozen=True)
class Queue:
    """This user's jobs, twice: one task of an array has the id of the whole array, so an id alone does not tell."""

    submitted: dict[str, Queued] = field(default_factory=dict)
    """By the id that sbatch gave: an array is alive while one of its tasks is."""
    tasks: dict[str, Queued] = field(default_factory=dict)
    """By the id that each task has for itself."""


def still_queued(jobs: Iterable[str], known: Mapping[str, Queued]) -> list[str]:
    """Return those of some jobs that wait or run; ``known`` are those that Slurm tells of."""
    return [job for job in jobs if job in known and known[job].alive]


def has_slurm() -> bool:
    """Tell whether jobs can be submitted from here."""
    return shutil.which("sbatch") is not None


def queue() -> Queue | None:
    """Return this user's jobs; None where there is no Slurm to ask. Raises UserError where Slurm does not answer."""
    if shutil.which("squeue") is None:
        return None
    lines = _call(["squeue", "--me", "--noheader", "--states=all", "--array", "--format=%A|%F|%T|%r|%L"]).stdout
    found = Queue()
    for line in lines.splitlines():
        job, array, state, reason, left = (part.strip() for part in line.split("|"))
        one = Queued(state, reason, left)
        for jobs, known_as in ((found.submitted, array), (found.tasks, job)):
            if known_as not in jobs or one.alive:  # squeue lists what has ended behind what runs
                jobs[known_as] = one
    return found


def submit(script: Path, options: Sequence[str] = ()) -> str:
    """Submit a job script; return the job's id. Raises UserError with Slurm's own reason where it refuses."""
    return _call(["sbatch", "--parsable", *options, str(script)]).stdout.strip().partition(";")[0]


def try_submit(script: Path, options: Sequence[str] = ()) -> str:
    """Ask Slurm whether it would take a job script; return what it says: when and where the job would start.

    Raises UserError with its reason where it would not.
    """
    said = _call(["sbatch", "--test-only", *options, str(script)]).stderr.splitlines()
    return (said or ["Slurm would take it"])[-1].removeprefix("sbatch: ")


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Return what a command printed; UserError with its last complaint where it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except FileNotFoundError:
        raise NoSlurmError(
            f"there is no {command[0]} here: run this on a login node of the cluster, or use --dry-run"
        ) from None
    except subprocess.TimeoutExpired:
        raise NoSlurmError(f"{command[0]} gave no answer within {TIMEOUT_S:.0f} s: is Slurm up? try: sinfo") from None
    if done.returncode != 0:
        told = [line.partition("error: ")[2] for line in done.stderr.splitlines() if "error: " in line]
        reason = (told or done.stderr.splitlines() or ["it gave no reason"])[-1].strip()
        if "fetch config" in reason or "contact slurm controller" in reason:
            raise NoSlurmError(
                f"Slurm does not answer here ({command[0]}: {reason}); go to a login node of the cluster"
            )
        raise UserError(f"Slurm refused the job: {reason}" if command[0] == "sbatch" else f"{command[0]}: {reason}")
    return done
