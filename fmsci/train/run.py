"""One training run from settings to result: opens the run folder, resumes, trains, says how it ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

import fmsci
from fmsci.checkpoint import STATE, checkpoint_path, newest_checkpoint
from fmsci.config import TrainSettings
from fmsci.engine.collective import Agreement
from fmsci.engine.device import device_name
from fmsci.errors import Failure, Interrupted, Lost, UserError
from fmsci.files import discard, read_json, write_json
from fmsci.terminal import say, warn
from fmsci.train.attempt import Attempt
from fmsci.train.build import Job, build_job
from fmsci.train.hparams import write_hparams
from fmsci.train.loop import train
from fmsci.train.monitor import Monitor, NotFinite
from fmsci.train.outcome import RESULT, read_result
from fmsci.train.preempt import StopAsked, find_deadline
from fmsci.train.recorded import check_recorded
from fmsci.train.saving import Saver, advice
from fmsci.train.state import State, read_saved
from fmsci.train.trouble import Trouble
from fmsci.world import StopSignals, World, collect_garbage

Afterwards = Callable[[Callable[[], None]], dict[str, Any]]
"""What is done with the trained model, on all ranks; it calls its argument now and then, which raises to stop it."""

MAX_REWINDS = 10
"""A run that needs more than so many batches left out has another problem than its data."""


def run_training(
    settings: TrainSettings,
    world: World,
    device: torch.device,
    test: Afterwards | None = None,
    signals: StopSignals | None = None,
) -> dict[str, Any]:
    """Train, or continue, the run in ``settings.run``; return its result (also in ``result.json``).

    ``test`` is called once the model is trained, in this start or an earlier one; what it returns becomes the result's
    ``test``. ``signals`` have been taken over by the caller already, else they are for the time of the run.
    Collective: all ranks call it inside a process group.

    Raises UserError for a mistake, Failure for a lost rank, Interrupted where it saved and should be started again.
    """
    with ExitStack() as held:
        attempt = Attempt(
            settings,
            world,
            device,
            signals or held.enter_context(StopSignals()),
            held,
            Agreement(settings.engine.timeout_s),
            find_deadline(settings.checkpoint),
        )
        try:
            try:
                result = _finished(attempt) or _train(attempt)
                if test is not None:
                    result["test"] = _tested(attempt, test)
                if world.is_main and not settings.checkpoint.keep_finished:
                    discard(settings.run / "checkpoints")
            except RuntimeError as error:
                known = attempt.failure(error)
                if known is None:
                    raise
                raise known from None
        except Interrupted as stop:
            attempt.ended("saved", str(stop), attempt.position.step)
            raise
        except NotFinite as error:
            attempt.ended("failed", str(error), error.step, samples=error.samples)
            raise
        except (UserError, Failure) as error:
            elsewhere = world.size > world.local_size  # on one host no rank is lost with its node and leaves another
            status = "lost" if isinstance(error, Lost) and elsewhere else "failed"
            attempt.ended(status, str(error), attempt.position.step)
            raise
        except BaseException as error:
            attempt.ended("failed", f"{type(error).__name__}: {error}", attempt.position.step)
            raise
        if world.is_main:
            write_hparams(settings, result)
        attempt.ended("finished", f"all {result['steps']} steps", result["steps"])
        return result


def _finished(attempt: Attempt) -> dict[str, Any] | None:
    """Return the result of a run that needs no more training, or None."""
    run = attempt.settings.run

    def look() -> float:
        check_recorded(attempt.settings)
        if run.is_dir():
            attempt.lock_folder()  # what it holds is not to change any more while this start looks at it
        if not (run / RESULT).exists():
            return 0.0
        attempt.own_folder()
        say(f"{run} is finished already")
        return 1.0

    if not attempt.decided_by_main(look):
        return None
    result = read_result(run).model_dump()
    attempt.position.step = result["steps"]
    return result


def _tested(attempt: Attempt, test: Afterwards) -> dict[str, Any]:
    """Return what ``test`` gives, unless the ranks are to stop: the next start does it then."""
    preempt = attempt.preempt(Trouble())
    try:
        result = test(preempt.check)
    except StopAsked:
        preempt.stopped()
        raise Interrupted(f"{preempt.why} asked for it; the model is trained, its test has to be done again") from None
    preempt.stopped()
    return result


def _train(attempt: Attempt) -> dict[str, Any]:
    settings, position = attempt.settings, attempt.position
    saved = _saved(attempt)
    job = build_job(settings, attempt.world, attempt.device, None if saved is None else saved["model"])
    attempt.decided_by_main(attempt.take_folder)  # only now: a mistake found on the way here leaves no folder behind
    if saved is not None:
        position.restore(saved["position"], job.loader.num_batches, settings.optim.epochs)
        job.engine.load(checkpoint_path(settings.run, position.step))
        if attempt.world.is_main:
            say(f"continuing {settings.run} after step {position.step}")
    if attempt.world.is_main:
        say(f"{settings.run}: {job.headline}, from step {position.step}")
    collect_garbage()
    while True:
        trouble = Trouble()
        try:
            with Monitor(job, position, trouble) as monitor, Saver(job, trouble) as saver:
                preempt = attempt.preempt(trouble, settings.checkpoint.every_minutes)
                train(job, position, monitor, preempt, saver, trouble)
                result = _result(job, position, monitor.elapsed_s())
            break
        except NotFinite as error:
            # Only here, where the saver has written what it had begun, is it known which checkpoint is the last.
            if settings.optim.on_nonfinite != "rewind" or not _rewind(attempt, job, error):
                raise NotFinite(f"{error}: {advice(job)}", error.step, error.samples) from None

    def publish() -> float:
        trouble.told()
        write_json(settings.run / RESULT, result)
        return 0.0

    attempt.decided_by_main(publish)
    return result


def _rewind(attempt: Attempt, job: Job, error: NotFinite) -> bool:
    """Go back to the last checkpoint, to leave out the batch that ``error`` tells of when it comes again.

    Returns False where that cannot help: no checkpoint, no batch to blame, too many of them already.
    """
    attempt.agreement.close()
    position = attempt.position
    skipped = [*position.skipped, error.step]
    saved = _saved(attempt)
    if saved is None or error.step in position.skipped or len(skipped) > MAX_REWINDS:
        return False
    position.restore(saved["position"], job.loader.num_batches, attempt.settings.optim.epochs)
    if error.step <= position.step:
        return False
    position.skipped = skipped
    job.engine.load(checkpoint_path(attempt.settings.run, position.step))
    if attempt.world.is_main:
        warn(f"{error}; going on after step {position.step} without the batch of step {error.step}")
    return True


def _saved(attempt: Attempt) -> dict[str, Any] | None:
    """Return what the newest complete checkpoint says, or None where there is none. It wins over ``init``."""
    run = attempt.settings.run

    def look() -> float:
        found = newest_checkpoint(run)
        if found is not None:
            return float(read_saved(*found)["position"]["step"])
        if any((run / "checkpoints").glob("step-*")):
            raise UserError(f"no checkpoint in {run} is whole; remove the run folder to start over")
        return -1.0

    step = attempt.decided_by_main(look)
    path = checkpoint_path(run, int(step))
    return None if step < 0 else read_saved(path, read_json(path / STATE))


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
        "device_name": device_name(job.device),
        "torch": torch.__version__,
        "host": job.world.host,
        "num_parameters": job.architecture.num_parameters,
    }
