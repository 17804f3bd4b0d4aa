"""What monitoring costs beside the steps of a run, for tools/bench_engine.py."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch

from fmsci.dataset.loader import Batch
from fmsci.engine.measure import measure
from fmsci.train.build import Job
from fmsci.train.monitor import Monitor
from fmsci.train.state import State
from fmsci.train.trouble import Trouble
from fmsci.world import World

Make = Callable[..., Job]
"""Returns the job of a run in a folder of its own, with more settings."""


def monitoring(make: Make, size: str, entries: int = 50) -> float:
    """Return processor time of what monitoring adds to a step at its default cadence, over that of a step.

    Entries are written one after another without the steps between them, until all is in the files: what TensorBoard's
    thread does counts too. (The norm of the gradient is taken in every step, whoever watches.)
    """
    job = make(f"model.size={size}", "optim.epochs=100000")
    every = job.settings.monitor.every_steps
    batch, result, step_s = steps_of(job)
    state = State()
    with Monitor(job, state, Trouble()) as monitor:
        begun = time.process_time()
        for _ in range(entries):
            for _ in range(every):
                monitor.collect(result)
                state.advance(batch.global_count)
            monitor.write(state, 1e-3)
    entry_s = (time.process_time() - begun) / entries
    return entry_s / (every * step_s)


def steps_of(job: Job) -> tuple[Batch, torch.Tensor, float]:
    """Return a batch, what a step on it gives, and processor time of the step."""
    engine = job.engine
    batch = next(iter(job.loader.epoch(0)))
    job.loader.close()
    took = []
    for _ in range(14):
        begun = time.process_time()
        result = engine.step(batch, 1e-6)
        took.append(time.process_time() - begun)
    return batch, result, statistics.median(took[2:])


def pictured(make: Make, size: str, minutes: float = 10) -> float:
    """Return processor time of all that monitoring with pictures and spectra adds to a run, over that of its steps.

    As :func:`monitoring`: the steps are left out, and put on the clock that pictures go by. Every epoch has a
    validation with a better error than the last, so that pictures come as often as they may.
    """
    chosen = [f"model.size={size}", "monitor.pictures=true"]
    job = make(*chosen)
    batch, result, step_s = steps_of(job)
    epochs = math.ceil(60 * minutes / (job.loader.num_batches * step_s))
    job = make(*chosen, f"optim.epochs={epochs}")
    took: dict[bool, list[float]] = {True: [], False: []}
    for number in range(12):
        begun = time.process_time()
        measured = {
            name: measure(job.engine.predict, split, World(), job.device, spectra=bool(number % 2))
            for name, split in job.valid.items()
        }
        took[bool(number % 2)].append(time.process_time() - begun)
    spectra_s = max(0.0, statistics.median(took[True]) - statistics.median(took[False]))
    state = State()
    with Monitor(job, state, Trouble()) as monitor:
        begun = time.process_time()
        for _ in range(epochs):
            for _ in range(job.loader.num_batches):
                monitor.collect(result)
                state.advance(batch.global_count)
                if monitor.due(state):
                    monitor.write(state, 1e-3)
            monitor._pictures._begun -= job.loader.num_batches * step_s
            state.validated(1.0 / state.step)
            monitor.validated(state, measured, improved=True)
    added_s = time.process_time() - begun
    return (added_s + epochs * spectra_s) / (state.step * step_s)
