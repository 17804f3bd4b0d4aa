"""One process on a CPU leaves the memory of large gradients to the next step: the same numbers, no page anew."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch

from fmsci.config.sections import EngineSettings, OptimSettings
from fmsci.dataset.loader import Batch, Piece
from fmsci.engine import ddp
from fmsci.engine.build import build_engine
from fmsci.engine.group import process_group
from fmsci.model.gradient_room import LEFT, gradient_room, leave_gradients
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture
from fmsci.train.optim import build_optimizer
from fmsci.world import World
from tests.engine.curves import LR, Remembered

LAYERS = 3


def build(**how):
    torch.manual_seed(0)
    scales = Scales(1.0, {"a": 1.0, "b": 1.0, "c": 1.0})
    operator = SolutionOperator(Architecture(4, 4, 4, LAYERS), scales, **how)
    return operator, build_optimizer(operator, OptimSettings(epochs=1, lr=LR))


def train(monkeypatch, large, steps=4, pieces=1, precision="fp32", **how):
    """Return the operator, and for each layer where the gradient of its spectral weights lay in each step."""
    monkeypatch.setattr(ddp, "LARGE_BYTES", large)
    operator, optimizer = build(**how)
    trained = build_engine(EngineSettings(precision=precision), operator, optimizer, World(), None, False)
    spectral = [layer.spectral for layer in operator.fno.layers]
    places, between = [], []
    optimizer.register_step_pre_hook(lambda *_: places.append([one.grad.data_ptr() for one in spectral]))
    for _ in range(steps):
        step(trained, pieces)
        assert all(one.grad is None for one in operator.parameters())
        between.append([torch.empty_like(one) for one in spectral])  # these lie where gradients were freed
    return operator, list(zip(*places, strict=True))


def step(engine, pieces=1):
    samples = Remembered()
    given = [samples.gather(np.arange(4) + 4 * at) for at in range(pieces)]
    engine.step(Batch([Piece(one, 4) for one in given], 4 * pieces), LR)


def held(operator):
    return [name for name, one in operator.named_parameters() if LEFT.get(one) is not None]


SPECTRAL_BYTES = 4 * 4 * 4**2 * 4**2
BUT_THE_FIRST = [f"fno.layers.{at}.spectral" for at in range(1, LAYERS)]


@pytest.mark.parametrize("pieces", [1, 2])
def test_gradients_lie_where_they_lay_and_are_the_same(monkeypatch, pieces):
    """But for the first layer's, which comes last; smaller parameters are left alone."""
    plain, moving = train(monkeypatch, SPECTRAL_BYTES + 1, pieces=pieces)
    left, places = train(monkeypatch, SPECTRAL_BYTES, pieces=pieces)
    assert [len(set(of_layer)) for of_layer in places[1:]] == [1] * (LAYERS - 1)
    assert all(len(set(of_layer)) > 1 for of_layer in (*moving, places[0]))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, left.state_dict()[name]), name
    assert held(plain) == []
    assert held(left) == BUT_THE_FIRST


@pytest.mark.parametrize("how", [{"precision": "bf16"}, {"backend": "fft"}, {"recompute": 1}])
def test_nothing_is_left_where_the_gradient_is_made_elsewhere(monkeypatch, how):
    """In bfloat16 the layer writes a gradient of that type, which autograd turns into one of float32."""
    operator, _ = train(monkeypatch, 1, **how)
    assert held(operator) == []


def test_what_is_not_asked_for_is_let_go_of(monkeypatch):
    """After steps in float32 the same operator goes on in bfloat16, whose gradients are made elsewhere."""
    operator, _ = train(monkeypatch, SPECTRAL_BYTES)
    assert held(operator) == BUT_THE_FIRST
    optimizer = build_optimizer(operator, OptimSettings(epochs=1, lr=LR))
    step(build_engine(EngineSettings(precision="bf16"), operator, optimizer, World(), None, False))
    assert held(operator) == []


def test_a_model_whose_gradients_lie_in_buckets_leaves_none(monkeypatch):
    monkeypatch.setattr(ddp, "LARGE_BYTES", 1)
    operator, optimizer = build()
    with process_group(World(), torch.device("cpu"), 60.0, always=True):
        wrapped = ddp.DDPEngine(operator, optimizer, World(), None, switches={})
        step(wrapped)
        assert held(operator) == []
        del wrapped


def test_what_is_left_is_taken_once_and_only_where_it_fits():
    weight = torch.nn.Parameter(torch.randn(4, 6))
    for left, fits in (
        (torch.empty(4, 6), True),
        (torch.empty(6, 4), False),
        (torch.empty(6, 4).t(), False),
        (torch.empty(4, 6, dtype=torch.float64), False),
    ):
        LEFT[weight] = left
        first, second = gradient_room(weight), gradient_room(weight)
        assert (first is left) is fits
        assert second is not first
        for one in (first, second):
            assert (one.shape, one.dtype, one.is_contiguous()) == (weight.shape, weight.dtype, True)


def test_no_copy_of_a_model_carries_what_is_left_and_it_goes_with_the_model(monkeypatch):
    operator, _ = train(monkeypatch, SPECTRAL_BYTES)
    bare, _ = build()
    assert len(pickle.dumps(operator)) == len(pickle.dumps(bare))
    assert held(copy.deepcopy(operator)) == []
    memory = [weakref.ref(LEFT[layer.spectral]) for layer in operator.fno.layers[1:]]
    del operator
    gc.collect()
    assert [one() for one in memory] == [None] * (LAYERS - 1)


def test_a_gradient_that_nobody_wrote_here_is_no_ones_to_take():
    """A parameter outside of the layers keeps its gradient's memory to itself."""
    weights = [torch.nn.Parameter(torch.randn(8)) for _ in range(3)]
    sum((one * one).sum() for one in weights).backward()
    leave_gradients(weights)
    assert all(one.grad is not None for one in weights)
