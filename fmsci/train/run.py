"""One training run from settings to result: opens the run folder, resumes, trains, says how it ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

import fmsci
from fmsci.checkpoint import STATE, checkpoint_path, newest_checkpoint
from fmsci.config import TrainSettings, dump_settings
from fmsci.engine.collective import total
from fmsci.errors import Interrupted, SettingsError, UserError
from fmsci.files import lock, read_json, write_json, write_text
from fmsci.terminal import say
from fmsci.train.build import Job, build_job
from fmsci.train.loop import train
from fmsci.train.monitor import Monitor
from fmsci.train.preempt import Preempt
from fmsci.train.recorded import check_recorded
from fmsci.train.state import State
from fmsci.world import World

Afterwards = Callable[[], dict[str, Any]]


def forget_outcome(settings: TrainSettings, world: World) -> None:
    """Remove how an earlier start ended, before anything can fail: job scripts read it, a stale one would mislead."""
    if world.is_main:
        (settings.run / "outcome.json").unlink(missing_ok=True)


@dataclass
class _Attempt:
    """One start of a run. ``owned`` is set once its folder is locked: until then nothing is written there."""

    settings: TrainSettings
    world: World
    device: torch.device
    preempt: Preempt
    held: ExitStack
    position: State = field(default_factory=State)
    owned: bool = False

    def decided_by_main(self, decide: Callable[[], float]) -> float:
        """Return what rank 0 finds, on every rank; its mistake ends them all. Collective.

        One rank looks for all: on a shared file system another might still see an older folder.
        """
        mistake: UserError | None = None
        value = 0.0
        if self.world.is_main:
            try:
                value = decide()
            except UserError as error:
                mistake = error
        failed, value = total([float(mistake is not None), value], self.device)
        if mistake is not None:
            raise mistake
        if failed:
            raise SettingsError("rank 0 has said what is wrong")
        return value

    def own_folder(self) -> float:
        """Lock the run folder for as long as this process lives; on rank 0."""
        run = self.settings.run
        self.held.enter_context(lock(run / ".lock", f"another process is training in {run}; choose another run="))
        self.owned = True
        return 0.0

    def ended(self, status: str, why: str, step: int) -> None:
        """Write how this start ended."""
        if self.owned:
            write_json(self.settings.run / "outcome.json", {"status": status, "why": why, "step": step})


def run_training(
    settings: TrainSettings, world: World, device: torch.device, test: Afterwards | None = None
) -> dict[str, Any]:
    """Train, or continue, the run in ``settings.run``; return its result (also in ``result.json``).

    ``test`` is called once the model is trained; what it returns becomes the result's ``test``. Collective: all ranks
    call it inside a process group.

    Raises UserError for a mistake, Interrupted where it saved and should be started again.
    """
    with ExitStack() as held:
        preempt = held.enter_context(Preempt(settings.checkpoint.every_minutes, device))
        attempt = _Attempt(settings, world, device, preempt, held)
        try:
            result = _finished(attempt) or _train(attempt)
            if test is not None:
                attempt.decided_by_main(lambda: 0.0)  # rank 0 has published the best model: only now others read it
                result["test"] = test()
        except Interrupted as stop:
            attempt.ended("saved", str(stop), attempt.position.step)
            raise
        except BaseException as error:
            attempt.ended("failed", f"{type(error).__name__}: {error}", attempt.position.step)
            raise
        attempt.ended("finished", f"all {result['steps']} steps", result["steps"])
        return result


def _finished(attempt: _Attempt) -> dict[str, Any] | None:
    """Return the result of a run that needs no more training, or None."""
    run = attempt.settings.run
    path = run / "result.json"

    def look() -> float:
        check_recorded(attempt.settings)
        if not path.exists():
            return 0.0
        attempt.own_folder()
        say(f"{run} is finished already")
        return 1.0

    return dict(read_json(path)) if attempt.decided_by_main(look) else None


def _train(attempt: _Attempt) -> dict[str, Any]:
    settings, position = attempt.settings, attempt.position
    saved = _saved(attempt)
    job = build_job(settings, attempt.world, attempt.device, None if saved is None else saved["model"])
    attempt.decided_by_main(attempt.own_folder)  # only now: a mistake found on the way here leaves no folder behind
    if attempt.world.is_main:
        write_text(settings.run / "config.yaml", dump_settings(settings))
    if saved is not None:
        position.restore(saved["position"])
        job.engine.load(checkpoint_path(settings.run, position.step))
        if attempt.world.is_main:
            say(f"continuing {settings.run} after step {position.step}")
    with Monitor(job, position) as monitor:
        train(job, position, monitor, attempt.preempt)
        result = _result(job, position, monitor.elapsed_s())
    if attempt.world.is_main:
        write_json(settings.run / "result.json", result)
    return result


def _saved(attempt: _Attempt) -> dict[str, Any] | None:
    """Return what the newest complete checkpoint says, or None where there is none. It wins over ``init``."""
    run = attempt.settings.run

    def look() -> float:
        found = newest_checkpoint(run)
        if found is not None:
            return float(found[1]["position"]["step"])
        if any((run / "checkpoints").glob("step-*")):
            raise UserError(f"no checkpoint in {run} is whole; remove the run folder to start over")
        return -1.0

    step = attempt.decided_by_main(look)
    return None if step < 0 else dict(read_json(checkpoint_path(run, int(step)) / STATE))


def _result(job: Job, state: State, elapsed_s: float) -> dict[str, Any]:
    return {
        "version": fmsci.__version__,
        "steps": state.step,
        "samples_seen": state.samples_seen,
        "train_samples": len(job.loader.samples),
        "best": {"valid_rel_l2": state.best_rel_l2, "step": state.best_step},
        "last": {"valid_rel_l2": state.last_rel_l2, "step": state.step},
        "elapsed_s": round(elapsed_s, 3),
        "world_size": job.world.size,
        "device": job.device.type,
        "num_parameters": job.architecture.num_parameters,
    }
