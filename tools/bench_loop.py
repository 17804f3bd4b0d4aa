"""What the loop of a run costs beside bare steps, for tools/bench_engine.py."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_jobs import CPU, settings

from fmsci.dataset.loader import Batch
from fmsci.engine.collective import Agreement
from fmsci.engine.ddp import DDPEngine
from fmsci.train.build import Job, build_job
from fmsci.train.loop import train
from fmsci.train.monitor import Monitor
from fmsci.train.preempt import Preempt
from fmsci.train.saving import Saver
from fmsci.train.state import State
from fmsci.train.trouble import Trouble
from fmsci.world import StopSignals, World


class Alternating:
    """The engine of a run that beside each of its steps takes the same step barely, with a model of its own.

    Taken in turn, now the one first and now the other, both meet the same moods of the machine.
    """

    def __init__(self, job: Job, bare: Job) -> None:
        self._engine, self._bare = job.engine, bare
        self.begun: list[float] = []
        self.bare_s: list[float] = []

    def step(self, batch: Batch, lr: float) -> torch.Tensor:
        """Take both steps; note when, in processor time."""
        self.begun.append(time.process_time())
        result = self._engine.step(batch, lr) if len(self.begun) % 2 else None
        between = time.process_time()
        bare_step(self._bare, batch)
        self.bare_s.append(time.process_time() - between)
        return self._engine.step(batch, lr) if result is None else result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def overhead(data: Path, run: Path, epochs: int) -> float:
    """Return processor time of a run's steps over that of bare ones (forward, backward, Adam), less 1.

    From one step to the next all of the loop is counted: order, loader, engine, logging, asking for a stop. The first
    steps warm up; validation and checkpoint come after the last.
    """
    chosen = settings(data, run, "model.size=64K", f"optim.epochs={epochs}", "monitor.validate_steps=1000")
    job, bare = build_job(chosen, World(), CPU), build_job(chosen, World(), CPU)
    engine = Alternating(job, bare)
    state, trouble = State(), Trouble()
    job = replace(job, engine=engine)
    run.mkdir(parents=True)
    with Monitor(job, state, trouble) as monitor, Saver(job, trouble) as saver:
        train(job, state, monitor, Preempt(run, World(), StopSignals(), Agreement(60.0)), saver, trouble)
    warm = job.loader.num_batches
    bare_s = sum(engine.bare_s[warm:-1])
    return (engine.begun[-1] - engine.begun[warm] - bare_s) / bare_s - 1


def bare_step(job: Job, batch: Batch) -> None:
    """Take one step on a batch as plainly as torch allows."""
    assert isinstance(job.engine, DDPEngine)
    operator, optimizer = job.engine.operator, job.engine.optimizer
    samples = batch.pieces[0].samples
    u = operator(samples.source, samples.coefficients)
    loss = (u - samples.solution).square().sum() / batch.global_count
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
