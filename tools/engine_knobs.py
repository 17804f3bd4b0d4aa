#!/usr/bin/env python
"""The time of a step with each knob of DDP and ZeRO turned, on the ranks that start it; tools/bench_engine.py does.

    mpiexec -n 2 python tools/engine_knobs.py SIZE GRID STEPS OUTPUT

One variant after the other, each with an engine of its own: a step to warm up, then the median of STEPS. Rank 0 writes
{variant: seconds} to OUTPUT.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from fmsci.config.sections import OptimSettings
from fmsci.dataset.loader import Batch, Piece
from fmsci.dataset.samples import Samples
from fmsci.engine.api import Engine
from fmsci.engine.collective import total
from fmsci.engine.ddp import DDPEngine
from fmsci.engine.group import process_group
from fmsci.engine.zero import ZeroEngine
from fmsci.engine.zero_config import deepspeed_config
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import architecture
from fmsci.train.optim import build_optimizer
from fmsci.world import World, detect_world

CPU = torch.device("cpu")
SCALES = Scales(1.0, {"k11": 1.0, "k22": 1.0, "k12": 1.0})
GLOBAL_BATCH = 16
DDP = {
    "as it is": {},
    "buckets of 1 MB": {"bucket_cap_mb": 1},
    "buckets of 100 MB": {"bucket_cap_mb": 100},
    "static_graph": {"static_graph": True},
    "gradients no views": {"gradient_as_bucket_view": False},
}
ZERO_PARTS = (1, 8)
"""A bucket of ZeRO holds all gradients, or so small a part of them."""


def main(size: str, grid: str, steps: str, output: str) -> None:
    """Measure every variant in turn."""
    world = detect_world()
    torch.set_num_threads(1)
    found = {}
    with process_group(world, CPU, 600.0, always=True):
        batch = draw(world, int(grid))
        for name, build in variants(size, world):
            engine = build()
            took = [step_s(engine, batch) for _ in range(int(steps) + 1)]
            found[name] = statistics.median(took[1:])
            del engine
            gc.collect()
    if world.is_main:
        Path(output).write_text(json.dumps(found))


def draw(world: World, grid: int) -> Batch:
    """Return a rank's part of a batch of noise: the time of a step does not depend on what it learns."""
    count = GLOBAL_BATCH // world.size
    samples = Samples(torch.randn(count, 2, grid, grid), torch.rand(count, 3) + 0.5)
    return Batch((Piece(samples, count),), GLOBAL_BATCH)


def step_s(engine: Engine, batch: Batch) -> float:
    """Take a step from where all ranks are to where all are."""
    total([0.0], CPU)
    begun = time.perf_counter()
    engine.step(batch, 1e-5)
    total([0.0], CPU)
    return time.perf_counter() - begun


def variants(size: str, world: World) -> Iterator[tuple[str, Callable[[], Engine]]]:
    """Yield each variant's name and what builds its engine."""
    shape = architecture(4, size)

    def parts() -> tuple[SolutionOperator, torch.optim.Optimizer]:
        operator = SolutionOperator(shape, SCALES)
        return operator, build_optimizer(operator, OptimSettings(epochs=1))

    for name, switches in DDP.items():
        yield f"ddp, {name}", partial(lambda chosen: DDPEngine(*parts(), world, None, switches=chosen), switches)
    for stage in (1, 2, 3):
        for part in ZERO_PARTS:
            for overlap in (False, True):
                config = deepspeed_config(
                    world_size=world.size,
                    accumulate=1,
                    num_parameters=shape.num_parameters // part,
                    stage=stage,
                    offload=False,
                    grad_clip=None,
                    compress=False,
                    on_gpu=False,
                )
                config["zero_optimization"]["overlap_comm"] = overlap
                name = f"zero{stage}, {'one bucket' if part == 1 else f'{part} buckets'}"
                name += ", overlap_comm" if overlap else ""
                yield name, partial(lambda chosen: ZeroEngine(*parts(), world, chosen), config)


if __name__ == "__main__":
    main(*sys.argv[1:])
