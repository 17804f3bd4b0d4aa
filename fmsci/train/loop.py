"""The training loop: every run, pretraining and fine-tuning, on any engine and any number of ranks."""

from __future__ import annotations

from fmsci.checkpoint import save_checkpoint
from fmsci.engine.measure import Measured, measure
from fmsci.errors import Interrupted
from fmsci.model_folder import write_model
from fmsci.train.build import Job
from fmsci.train.monitor import Monitor
from fmsci.train.optim import learning_rate
from fmsci.train.preempt import Preempt
from fmsci.train.state import State


def train(job: Job, state: State, monitor: Monitor, preempt: Preempt) -> Measured:
    """Run from ``state`` to the last epoch; return the last validation.

    Raises Interrupted after saving, when any rank was asked to stop.
    """
    settings, engine, loader = job.settings, job.engine, job.loader
    last = validate(job, state, monitor) if state.step == 0 else None
    while state.epoch < settings.optim.epochs:
        for batch in loader.epoch(state.epoch, start=state.seen):
            lr = learning_rate(settings.optim, state.step, job.num_steps)
            result = engine.step(batch, lr)  # forward, backward, reduce, clip, update
            state.advance(batch.global_count)
            if monitor.due(state):  # the only place that waits for the device
                monitor.write(state, result, lr)
            if _due(settings.monitor.validate_steps, state.step):
                last = validate(job, state, monitor)
            stop, save = preempt.poll()  # all ranks agree
            if stop or save or _due(settings.checkpoint.every_steps, state.step):
                checkpoint(job, state, monitor, preempt)
            if stop:
                raise Interrupted(f"saved after step {state.step} of {job.num_steps}")
        state.next_epoch()
        ended = state.epoch == settings.optim.epochs
        if settings.monitor.validate_steps is None or (ended and not _due(settings.monitor.validate_steps, state.step)):
            last = validate(job, state, monitor)
        if ended or _due(settings.checkpoint.every_epochs, state.epoch):
            checkpoint(job, state, monitor, preempt)
    return last or validate(job, state, monitor)


def _due(every: int | None, count: int) -> bool:
    return every is not None and count % every == 0


def validate(job: Job, state: State, monitor: Monitor) -> Measured:
    """Measure the validation split; publish the model where it is the best so far."""
    measured = measure(job.engine.predict, job.valid, job.world, job.device)
    improved = state.improves(measured.rel_l2)
    if improved:
        weights = job.engine.weights()
        if job.world.is_main:
            facts = {"valid_rel_l2": measured.rel_l2, "valid_samples": measured.count, "step": state.step}
            write_model(job.run / "model", weights, job.architecture, job.scales, job.trained_on, facts)
    monitor.validated(state, measured, improved)
    return measured


def checkpoint(job: Job, state: State, monitor: Monitor, preempt: Preempt) -> None:
    """Save everything that a restart needs."""
    state.elapsed_s = monitor.elapsed_s()
    if job.world.is_main:
        save_checkpoint(job.run, state.step, state.as_dict(), job.engine.save, job.settings.checkpoint.keep)
    preempt.saved()
