"""Where runs are: from their folders, and from Slurm's queue where there is one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmsci.cluster.queue import Queued
from fmsci.cluster.run_folders import JOB_FILE
from fmsci.config import TrainSettings, load_settings
from fmsci.dataset.order import num_batches
from fmsci.errors import UserError
from fmsci.files import regular_file
from fmsci.locks import LOCK, is_locked
from fmsci.shards import read_manifest
from fmsci.terminal import duration
from fmsci.train.entries import METRICS, last_entries
from fmsci.train.outcome import RESULT, Outcome, read_outcome, read_result


@dataclass(frozen=True)
class RunStatus:
    """What is known of a run; None for what is not."""

    run: str
    state: str
    """What its outcome says (finished, saved, failed, lost: a rank of another node is gone), running, stopped (ended
    without a word), not started, or unreadable; or Slurm's state in capitals."""
    why: str | None = None
    job: str | None = None
    restarts: int | None = None
    step: int = 0
    """The newest that metrics, checkpoints or the outcome name: entries of metrics come every few steps only."""
    steps: int | None = None
    loss: float | None = None
    error: float | None = None
    samples_per_s: float | None = None
    left_s: float | None = None
    checkpoint_step: int | None = None
    checkpoint_age_s: float | None = None


def run_status(run: Path, jobs: Mapping[str, Queued]) -> RunStatus:
    """Return where a run is; ``jobs`` are those in the queue, by their own ids.

    A run with a damaged file does not hide the others.
    """
    try:
        return _run_status(run, jobs)
    except UserError as error:
        return RunStatus(str(run), "unreadable", str(error))


def _run_status(run: Path, jobs: Mapping[str, Queued]) -> RunStatus:
    job, restarts = _job(run)
    entries = last_entries(run / METRICS)
    outcome, saved = read_outcome(run), _checkpoint(run)
    step = max(int(entries[-1]["step"]) if entries else 0, saved[0] if saved else 0, outcome.step if outcome else 0)
    steps = _planned_steps(run)
    rate = _last(entries, "perf/samples_per_s")
    state, why = _state(run, outcome, jobs.get(job) if job else None)
    left = None
    if steps is not None and rate and state in {"running", "RUNNING"}:
        left = (steps - step) * _batch_size(run) / rate
    return RunStatus(
        run=str(run),
        state=state,
        why=why,
        job=job,
        restarts=restarts,
        step=step,
        steps=steps,
        loss=_last(entries, "train/loss"),
        error=_last_error(entries),
        samples_per_s=rate,
        left_s=left,
        checkpoint_step=saved[0] if saved else None,
        checkpoint_age_s=time.time() - saved[1] if saved else None,
    )


def describe(status: RunStatus) -> tuple[str, ...]:
    """Return a run's row for people."""
    return (
        status.run,
        status.state,
        f"{status.step:,}" + (f" of {status.steps:,}" if status.steps else ""),
        _number(status.loss, ".3g"),
        _number(status.error, ".4f"),
        _number(status.samples_per_s, ",.0f"),
        "-" if status.left_s is None else duration(status.left_s),
        "-" if status.restarts is None else str(status.restarts),
        describe_checkpoint(status) or "-",
    )


def describe_checkpoint(status: RunStatus) -> str | None:
    """Say which checkpoint is the newest and how old it is, for people; None where there is none."""
    if status.checkpoint_step is None or status.checkpoint_age_s is None:
        return None
    return f"step {status.checkpoint_step:,}, {duration(status.checkpoint_age_s)} ago"


COLUMNS = ("run", "state", "step", "loss", "error", "samples/s", "left", "restarts", "checkpoint")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _state(run: Path, outcome: Outcome | None, queued: Queued | None) -> tuple[str, str | None]:
    """Return a run's state and why. A job that waits or runs says more than what an earlier start left behind."""
    if queued is not None and queued.alive:
        return queued.state, None if queued.reason == "None" else queued.reason
    if outcome is not None:
        return outcome.status, outcome.why
    if is_locked(run / LOCK):
        return "running", None
    if queued is not None and queued.state != "COMPLETED":
        return queued.state, queued.reason
    if (run / RESULT).exists():
        return "finished", None
    return ("stopped", "it ended without saying why") if (run / METRICS).exists() else ("not started", None)


def _job(run: Path) -> tuple[str | None, int | None]:
    try:
        words = regular_file(run / JOB_FILE).read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return None, None
    return (words[0], int(words[1])) if len(words) == 2 and words[1].isdigit() else (None, None)


def _last(entries: Sequence[dict[str, Any]], name: str) -> float | None:
    return next((float(entry[name]) for entry in reversed(entries) if name in entry), None)


def _last_error(entries: Sequence[dict[str, Any]]) -> float | None:
    """Return the newest validation error: the mean over systems, or that of the only one."""
    for entry in reversed(entries):
        errors = {name: value for name, value in entry.items() if name.startswith("valid/") and name.endswith("rel_l2")}
        if errors:
            return float(errors.get("valid/rel_l2", next(iter(errors.values()))))
    return None


def _settings(run: Path) -> TrainSettings | None:
    path = run / "config.yaml"
    return load_settings(TrainSettings, path) if path.exists() else None


def _batch_size(run: Path) -> int:
    settings = _settings(run)
    return settings.optim.batch_size if settings else 0


def _planned_steps(run: Path) -> int | None:
    """Return how many optimizer steps the run takes in all; None where that is not known (its data are elsewhere)."""
    if (run / RESULT).exists():
        return read_result(run).steps
    settings = _settings(run)
    if settings is None:
        return None
    data = settings.data
    parts = data.mixture or ()
    wanted = [part.train_samples for part in parts] or [data.train_samples]
    try:
        counts = [
            count if count is not None else read_manifest(folder).splits["train"].count
            for count, folder in zip(wanted, data.folders, strict=True)
        ]
    except UserError:
        return None
    return settings.optim.epochs * num_batches(sum(counts), settings.optim.batch_size)


def _checkpoint(run: Path) -> tuple[int, float] | None:
    """Return the step of the newest complete checkpoint, and when it was written; None where there is none."""
    marks = (run / "checkpoints").glob("step-*/COMPLETE")
    steps = {int(number): mark for mark in marks if (number := mark.parent.name.removeprefix("step-")).isdecimal()}
    return (max(steps), steps[max(steps)].stat().st_mtime) if steps else None
