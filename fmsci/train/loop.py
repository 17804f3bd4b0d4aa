"""The training loop: every run, pretraining and fine-tuning, on any engine and any number of ranks."""

from __future__ import annotations

from typing import Any

from fmsci.engine.measure import batch_for, measure
from fmsci.errors import Interrupted
from fmsci.metrics import LOSSES
from fmsci.model_folder.writing import write_model
from fmsci.train.build import Job
from fmsci.train.learning_rate import learning_rate
from fmsci.train.monitor import Monitor, check_finite
from fmsci.train.preempt import Preempt, StopAsked
from fmsci.train.saving import Saver
from fmsci.train.state import State
from fmsci.train.trouble import Trouble


def train(job: Job, state: State, monitor: Monitor, preempt: Preempt, saver: Saver, trouble: Trouble) -> None:
    """Run from ``state`` to the last epoch.

    Raises Interrupted after saving, when any rank was asked to stop, and what went wrong on rank 0 on all.
    """
    settings, engine, loader = job.settings, job.engine, job.loader
    try:
        if state.step == 0 or state.validation_due:
            again = state.validation_due
            validate(job, state, monitor, preempt, trouble)
            if again:
                checkpoint(state, monitor, preempt, saver)
        while state.epoch < settings.optim.epochs:
            for batch in loader.epoch(state.epoch, start=state.seen):
                lr = learning_rate(settings.optim, job.peak_lr, state.step, job.num_steps, loader.num_batches)
                if state.step + 1 not in state.skipped:
                    monitor.collect(engine.step(batch, lr))  # forward, backward, reduce, clip, update
                state.advance(batch.global_count)
                stop = preempt.poll()  # all ranks agree
                save = stop or preempt.save or preempt.broken or _checkpoint_due(job, state)
                validation = _validation_due(job, state)
                if save or validation or monitor.due(state):  # looks at the loss: what has diverged is never saved
                    monitor.write(state, lr)
                if validation and validate(job, state, monitor, preempt, trouble) and settings.checkpoint.keep_best:
                    save = True  # else there is no best one to be kept
                if save:  # after the entries of this step: a restart repeats none
                    checkpoint(state, monitor, preempt, saver)
                if stop:
                    raise StopAsked
            state.next_epoch()
    except StopAsked:
        if state.validation_due:
            checkpoint(state, monitor, preempt, saver)
        saver.close()
        preempt.stopped()
        raise Interrupted(f"{preempt.why} asked for it; saved after step {state.step} of {job.num_steps}") from None
    saver.close()
    preempt.stopped()


def _validation_due(job: Job, state: State) -> bool:
    every = job.settings.monitor.validate_steps
    if state.step == job.num_steps:
        return True
    return state.seen == job.loader.num_batches if every is None else state.step % every == 0


def _checkpoint_due(job: Job, state: State) -> bool:
    settings = job.settings.checkpoint
    if state.step == job.num_steps:
        return settings.keep_finished  # else the result comes next, and it would be removed
    if _due(settings.every_steps, state.step):
        return True
    epochs = (settings.every_epochs, settings.keep_every_epochs)
    return state.seen == job.loader.num_batches and any(_due(every, state.epoch + 1) for every in epochs)


def _due(every: int | None, count: int) -> bool:
    return every is not None and count % every == 0


def validate(job: Job, state: State, monitor: Monitor, preempt: Preempt, trouble: Trouble) -> bool:
    """Measure the validation split of every system; publish the model where their mean is the best so far.

    Returns whether it is. Raises StopAsked when the ranks are to stop: ``state.validation_due`` then stays set.
    """
    state.validation_due = True
    how: dict[str, Any] = {"spectra": job.settings.monitor.pictures, "loss": LOSSES[job.settings.optim.loss]}
    measured = {
        name: measure(
            job.engine.predict,
            split,
            job.world,
            job.device,
            batch_for(job.architecture.width, split.grid),
            between=preempt.check,
            **how,
        )
        for name, split in job.valid.items()
    }
    rel_l2 = sum(one.rel_l2 for one in measured.values()) / len(measured)
    check_finite(job, state.step, "validation error", rel_l2)
    improved = state.validated(rel_l2)
    if improved:
        weights = job.engine.weights()
        if job.world.is_main:
            facts: dict[str, float] = {"valid_rel_l2": rel_l2, "step": state.step}
            facts["valid_samples"] = sum(one.count for one in measured.values())
            if len(measured) > 1:
                facts |= {f"valid_{name}_rel_l2": one.rel_l2 for name, one in measured.items()}
            with trouble.kept():
                about = job.trained_on, facts, job.data.training_range
                write_model(job.run / "model", weights, job.architecture, job.scales, *about)
    state.validation_due = False
    monitor.validated(state, measured, improved)
    return improved


def checkpoint(state: State, monitor: Monitor, preempt: Preempt, saver: Saver) -> None:
    """Save everything that a restart needs."""
    state.elapsed_s = monitor.elapsed_s()
    saver.save(state)
    preempt.saved()
