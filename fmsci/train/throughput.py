"""How fast this machine trains a model, measured: a few real steps on random fields. ``python -m`` this file.

A study asks for it in a process of its own, before anything else starts. Reads one JSON document on stdin, writes one.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fmsci.config.sections import EngineSettings, OptimSettings
from fmsci.dataset.loader import Batch, Piece
from fmsci.dataset.samples import Samples
from fmsci.engine.build import build_engine
from fmsci.engine.device import pick_device, set_threads
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture
from fmsci.train.optim import build_optimizer
from fmsci.world import World, keep_freed_memory

SECONDS = 1.0
"""So long is each measurement repeated; three times at least."""


def throughput(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return seconds of a training step on one sample and on many, and of the prediction of one.

    ``asked`` has width, modes, layers, channels, grid, device, threads, precision, and ``most``: how many samples the
    larger step takes on each kind of device.
    """
    world = World()
    device = pick_device(asked["device"], world)
    set_threads(asked["threads"], world)
    shape = Architecture(asked["channels"], asked["width"], asked["modes"], asked["layers"])
    if device.type == "cpu":
        keep_freed_memory(shape.largest_parameter_bytes)
    scales = Scales(1.0, {f"c{number}": 1.0 for number in range(shape.in_channels - 1)})
    operator = SolutionOperator(shape, scales).to(device)
    optimizer = build_optimizer(operator, OptimSettings(epochs=1, lr=1e-6))
    engine = build_engine(EngineSettings(precision=asked["precision"]), operator, optimizer, world, None)

    def samples(count: int) -> Samples:
        fields = torch.randn(count, 2, asked["grid"], asked["grid"], device=device)
        return Samples(fields, torch.ones(count, len(scales.columns), device=device))

    def step(batch: Batch) -> None:
        float(engine.step(batch, 1e-6)[0])  # waits for the device

    steps = []
    batches = [1, asked["most"][device.type]]
    for count in batches:
        batch = Batch((Piece(samples(count), count),), count)
        steps.append(_median_seconds(lambda batch=batch: step(batch)))  # type: ignore[misc]
    shown = samples(batches[-1])
    predict = _median_seconds(lambda: float(engine.predict(shown.source, shown.coefficients).sum()))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"batches": batches, "step_s": steps, "predict_s": predict / len(shown), "device": name}


def _median_seconds(work: Callable[[], object]) -> float:
    work()
    took: list[float] = []
    while len(took) < 3 or sum(took) < SECONDS:
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


if __name__ == "__main__":
    json.dump(throughput(json.load(sys.stdin)), sys.stdout)
