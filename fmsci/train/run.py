"""One training run from settings to result: opens the run folder, resumes, trains, says how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import fmsci
from fmsci.checkpoint import STATE, checkpoint_path, newest_checkpoint
from fmsci.config import TrainSettings, dump_settings, load_settings
from fmsci.engine.collective import barrier, total
from fmsci.errors import Interrupted, UserError
from fmsci.files import read_json, write_json, write_text
from fmsci.terminal import say
from fmsci.train.build import Job, build_job
from fmsci.train.loop import train
from fmsci.train.monitor import Monitor
from fmsci.train.preempt import Preempt
from fmsci.train.state import State
from fmsci.world import World

MAY_CHANGE = ("run", "engine.", "checkpoint.", "monitor.", "data.cache", "data.prefetch")
"""Settings that a restart may change: they do not change what is learned."""


def run_training(settings: TrainSettings, world: World, device: torch.device) -> dict[str, Any]:
    """Train, or continue, the run in ``settings.run``; return its result (also in ``result.json``).

    Collective: all ranks call it inside a process group.
    Raises UserError for a mistake, Interrupted where it saved and should be started again.
    """
    _same_run(settings)
    result_path = settings.run / "result.json"
    if result_path.exists():
        if world.is_main:
            say(f"{settings.run} is finished already")
        finished: dict[str, Any] = read_json(result_path)
        return finished
    job = build_job(settings, world, device)
    state = _resume(job)
    if world.is_main:
        (settings.run / "outcome.json").unlink(missing_ok=True)
        write_text(settings.run / "config.yaml", dump_settings(settings))
    barrier()
    try:
        result = _train(job, state)
    except Interrupted as stop:
        _outcome(job, state, "saved", str(stop))
        raise
    except BaseException as error:
        _outcome(job, state, "failed", f"{type(error).__name__}: {error}")
        raise
    if world.is_main:
        write_json(result_path, result)
    _outcome(job, state, "finished", f"all {job.num_steps} steps")
    return result


def _train(job: Job, state: State) -> dict[str, Any]:
    with Preempt(job.settings.checkpoint.every_minutes, job.device) as preempt, Monitor(job, state) as monitor:
        train(job, state, monitor, preempt)
        return {
            "version": fmsci.__version__,
            "steps": state.step,
            "samples_seen": state.samples_seen,
            "train_samples": len(job.loader.samples),
            "best": {"valid_rel_l2": state.best_rel_l2, "step": state.best_step},
            "last": {"valid_rel_l2": state.last_rel_l2, "step": state.step},
            "elapsed_s": round(monitor.elapsed_s(), 3),
            "world_size": job.world.size,
            "device": job.device.type,
            "num_parameters": job.architecture.num_parameters,
        }


def _resume(job: Job) -> State:
    """Return the position of the newest complete checkpoint, loaded, or the beginning. It wins over ``init``."""
    # Rank 0 chooses for all: each would read the whole checkpoint, and one might see another folder than the rest.
    found = newest_checkpoint(job.run) if job.world.is_main else None
    mine = 0.0 if not job.world.is_main else -1.0 if found is None else float(found[1]["step"])
    (step,) = total([mine], job.device)
    if step < 0:
        return State()
    path = checkpoint_path(job.run, int(step))
    saved = read_json(path / STATE)
    job.engine.load(path)
    if job.world.is_main:
        say(f"continuing {job.run} after step {saved['step']}")
    return State(**saved)


def _same_run(settings: TrainSettings) -> None:
    """Raise UserError where the run folder holds a run with other settings: results would be mixed."""
    path = settings.run / "config.yaml"
    if not path.exists():
        return
    recorded = load_settings(TrainSettings, path).model_dump(mode="json")
    wanted = settings.model_dump(mode="json")
    for key, old, new in _differences(recorded, wanted):
        if not key.startswith(MAY_CHANGE):
            raise UserError(f"{settings.run} holds a run with {key}={old}, not {new}; choose another run= or remove it")


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for key in new:
        before, after = old.get(key), new[key]
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append((f"{prefix}{key}", before, after))
    return found


def _outcome(job: Job, state: State, status: str, why: str) -> None:
    if job.world.is_main:
        write_json(job.run / "outcome.json", {"status": status, "why": why, "step": state.step})


def outcome(run: Path) -> str | None:
    """Return how a run ended last: finished, saved, failed, or None where it has not ended."""
    path = run / "outcome.json"
    return str(read_json(path)["status"]) if path.exists() else None
