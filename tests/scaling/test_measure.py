"""What is timed: the step of a point, and beside it the same computing as several ranks would do it."""

import itertools

import pytest
import torch

from fmsci.config import ScalingSettings
from fmsci.config.sections import EngineSettings
from fmsci.engine.ddp import DDPEngine
from fmsci.engine.replay_rule import numbers_of_step, replays
from fmsci.scaling import measure
from fmsci.scaling.points import Point
from fmsci.world import World

CPU = torch.device("cpu")
ENGINES = {
    "ddp": EngineSettings(),
    "pieces": EngineSettings(accumulate=2),
    "zero1": EngineSettings(kind="zero", zero_stage=1),
    "fft": EngineSettings(precision="bf16", transform="fft", recompute=2),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_step_without_exchange_computes_what_that_of_the_point_does(engine, ranks, monkeypatch):
    asked = []
    monkeypatch.setattr(
        measure,
        "build_engine",
        lambda how, operator, optimizer, world, clip, numbers: asked.append((how, world)) or numbers,
    )
    how = ENGINES[engine]
    point = Point(ranks, "64K", engine, how, 4, 16, 3)
    settings = ScalingSettings(run="run", world_sizes=[ranks], weak=[2])
    bench = measure._Bench(settings, point, World(0, ranks), torch.device("cpu"))
    bench.loader.close()
    (together, world), (alone, own) = asked
    assert (together, world.size, own.size) == (how, ranks, 1)
    assert not alone.replay  # there is no GPU
    assert (alone.kind, alone.precision, alone.transform, alone.recompute) == (
        "ddp",
        how.precision,
        how.transform,
        how.recompute,
    )


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_steps_without_exchange_are_whole_batches_where_they_are_replayed(ranks, monkeypatch):
    """One rank replays nothing but whole batches: its part of a batch of several ranks has to be one."""

    def built(how, operator, optimizer, world, clip, numbers):
        return DDPEngine(operator, optimizer, World(), clip, replay=True)

    monkeypatch.setattr(measure, "build_engine", built)
    point = Point(ranks, "64K", "ddp", EngineSettings(), 4 * ranks, 16, 3)
    bench = measure._Bench(ScalingSettings(run="run", world_sizes=[ranks], weak=[4]), point, World(0, ranks), CPU)
    replayed = []
    bench.alone.replayed.gradient = lambda *inputs: replayed.append(inputs) or (torch.zeros(2), torch.zeros(()))
    bench.replayed = True
    for batch in itertools.islice(bench._batches(), 3):
        own = bench._own(batch)
        assert (own.global_count, len(own.pieces[0].samples)) == (4, 4)
        bench.alone._gradient(own)
    bench.loader.close()
    assert len(replayed) == 3


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ranks", [1, 8])
def test_on_gpus_it_is_replayed_where_several_ranks_replay(engine, ranks):
    """Else what a replay saves would pass for the exchange, or for time that more ranks cost."""
    for samples, short in ((64, True), (65, False)):  # of 16M at 128 x 128
        point = Point(ranks, "16M", engine, ENGINES[engine], samples * ranks, 128, 3)
        alone = measure.alone_settings(point, "cuda")
        several = replays(point.how, 8, "cuda", numbers_of_step(point.shape, samples, 128))
        assert several is (short and engine == "ddp")
        assert replays(alone, 1, "cuda") is several
        assert not measure.alone_settings(point, "cpu").replay
