"""Train one tiny model with several engine settings inside one group of real processes; rank 0 writes what they gave.

``mpiexec -n N python -m tests.engine.curves OUTPUT JSON [DEVICE]`` where JSON is a list of settings (see ``Case``).
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fmsci.config.sections import EngineSettings, OptimSettings
from fmsci.dataset.loader import Loader
from fmsci.dataset.order import epoch_order
from fmsci.dataset.samples import Samples
from fmsci.engine.build import build_engine
from fmsci.engine.collective import total
from fmsci.engine.ddp import DDPEngine
from fmsci.engine.group import process_group
from fmsci.metrics import LOSSES
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture
from fmsci.train.optim import build_optimizer
from fmsci.world import detect_world

NUM_SAMPLES, BATCH, LR = 13, 5, 3e-3
CPU = torch.device("cpu")


@dataclass
class Case:
    """One training: engine settings by name, steps, the checkpoint to start from and those to leave behind."""

    name: str
    engine: dict  # EngineSettings; and ``replayed``: as several GPUs replay, on a CPU with passes that are not recorded
    steps: int = 50
    start: int = 0
    load: str | None = None
    save: dict[str, str] | None = None  # step -> folder
    clip: float | None = None
    spoil: tuple[int, ...] = ()  # steps whose batch holds a NaN
    overflow: tuple[int, ...] = ()  # steps whose loss is finite but not its gradient, on one rank
    skip: bool = False
    optim: dict | None = None  # optim.freeze, optim.lr_factors
    loss: str = "squared"


class Remembered:
    """Samples in memory: smoothing noise is as good as physics for comparing engines."""

    columns, grid = ("a", "b", "c"), 16

    def __init__(self):
        generator = torch.Generator().manual_seed(7)
        noise = torch.randn(NUM_SAMPLES, 16, 16, generator=generator)
        smooth = (noise.roll(1, 1) + 2 * noise + noise.roll(-1, 1)) / 4  # what there is to learn
        self.fields = torch.stack((noise, smooth), dim=1)
        self.coefficients = torch.rand(NUM_SAMPLES, 3, generator=generator) + 0.5

    def __len__(self):
        return NUM_SAMPLES

    def order(self, seed, epoch):
        return epoch_order(seed, epoch, NUM_SAMPLES)

    def numbers(self, indices):
        return indices

    def gather(self, indices, pin=False):
        chosen = torch.from_numpy(np.asarray(indices))
        return Samples(self.fields[chosen], self.coefficients[chosen])


def build_operator(recompute=0):
    torch.manual_seed(0)
    scales = Scales(1.0, {"a": 1.0, "b": 1.0, "c": 1.0})
    return SolutionOperator(Architecture(4, 4, 4, 2), scales, recompute=recompute)


def train(case, world, device):
    """Return losses, relative errors, final weights (flat), a prediction, and how many weights waited elsewhere."""
    words = dict(case.engine)
    replayed = words.pop("replayed", False)
    settings = EngineSettings(**words)
    operator = build_operator(settings.recompute).to(device)
    with torch.no_grad():
        for parameter in operator.parameters():  # the first rank's weights count, whatever the others begin with
            parameter += world.rank
    optimizer = build_optimizer(operator, OptimSettings(epochs=1, lr=LR, **(case.optim or {})))
    if replayed and settings.accumulate == 1:
        how = {"precision": settings.precision, "compress": settings.compress, "loss": LOSSES[case.loss]}
        engine = DDPEngine(operator, optimizer, world, case.clip, skip_nonfinite=case.skip, replay=True, **how)
    else:
        engine = build_engine(settings, operator, optimizer, world, case.clip, case.skip, LOSSES[case.loss])
    if case.load is not None:
        engine.load(Path(case.load))
    engine.watch.wanted = lambda: True
    norms, waits = [], []
    absent = []  # at the last layer of each forward pass
    operator.fno.head.register_forward_pre_hook(lambda *_: absent.append(num_absent(operator)))
    loader = Loader(Remembered(), BATCH, 0, world.rank, world.size, settings.accumulate, device, prefetch=0)
    curve = []
    for step in range(case.start, case.steps):
        epoch, index = divmod(step, loader.num_batches)
        batch = next(iter(loader.epoch(epoch, index)))
        if step in case.spoil and world.is_main:
            batch.pieces[0].samples.fields[0] = float("nan")
        handle = operator.register_forward_hook(overflowing) if step in case.overflow and world.is_main else None
        curve.append(total(engine.step(batch, LR).tolist(), CPU))
        norms.append(engine.watch.take_norm())
        waits.append(engine.watch.take_wait_s())
        if handle is not None:
            handle.remove()
        folder = (case.save or {}).get(str(step + 1))
        if folder is not None:
            snapshot = engine.snapshot()
            if world.is_main:
                Path(folder).mkdir(parents=True)
                snapshot.write(Path(folder))
    weights = engine.weights()
    sample = Remembered().gather([0])
    predicted = engine.predict(sample.source.to(device), sample.coefficients.to(device))
    flat = {name: tensor.flatten().tolist() for name, tensor in weights.items()}
    return {"curve": curve, "weights": flat, "predicted": predicted.flatten().tolist(), "absent": min(absent)} | {
        "norms": norms,
        "waits": waits,
        "recorded": len(engine.replayed._recordings) if getattr(engine, "replayed", None) else 0,
    }


def overflowing(module, inputs, u):
    u.register_hook(lambda gradient: gradient * 1e38 * 1e38)


def num_absent(operator):
    """Return how many parameters ZeRO-3 has not gathered on this rank, or has let go of again."""
    states = [getattr(parameter, "ds_status", None) for parameter in operator.parameters()]
    return sum(state is not None and state.name == "NOT_AVAILABLE" for state in states)


def main(output, cases, device="cpu"):
    torch.set_num_threads(1)
    world = detect_world()
    with process_group(world, CPU, timeout_s=60.0, always=True):
        cases = json.loads(cases)  # GPUs speak to each other by gloo, too: several ranks may share one
        found = {case["name"]: train(Case(**case), world, torch.device(device)) for case in cases}
    if world.is_main:
        Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
