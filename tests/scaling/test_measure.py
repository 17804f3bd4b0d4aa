"""What is timed: the step of a point, and beside it the same computing as several ranks would do it."""

import pytest
import torch

from fmsci.config import ScalingSettings
from fmsci.config.sections import EngineSettings
from fmsci.engine.build import replays
from fmsci.scaling import measure
from fmsci.scaling.points import Point
from fmsci.world import World

ENGINES = {
    "ddp": EngineSettings(),
    "pieces": EngineSettings(accumulate=2),
    "zero1": EngineSettings(kind="zero", zero_stage=1),
    "fft": EngineSettings(precision="bf16", transform="fft", recompute=2),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_step_without_exchange_is_never_replayed(engine, ranks, monkeypatch):
    """A replay saves the starting of kernels, which several ranks never save: it would pass for the exchange."""
    asked = []
    monkeypatch.setattr(
        measure, "build_engine", lambda how, operator, optimizer, world, clip: asked.append((how, world))
    )
    how = ENGINES[engine]
    point = Point(ranks, "64K", engine, how, 4, 16, 3)
    settings = ScalingSettings(run="run", world_sizes=[ranks], weak=[2])
    bench = measure._Bench(settings, point, World(0, ranks), torch.device("cpu"))
    bench.loader.close()
    (together, world), (alone, own) = asked
    assert (together, world.size, own.size) == (how, ranks, 1)
    assert not replays(alone, own, "cuda")
    assert replays(together, world, "cuda") == (ranks == 1 and engine == "ddp")
    assert (alone.kind, alone.precision, alone.transform, alone.recompute) == (
        "ddp",
        how.precision,
        how.transform,
        how.recompute,
    )
