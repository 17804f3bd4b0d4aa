"""One process on a CPU leaves the memory of large gradients to the next step: the same numbers, no page anew."""

import copy

import numpy as np
import pytest
import torch

from fmsci.config.sections import EngineSettings, OptimSettings
from fmsci.dataset.loader import Batch, Piece
from fmsci.engine import ddp
from fmsci.engine.build import build_engine
from fmsci.model.gradient_room import gradient_room
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture
from fmsci.train.optim import build_optimizer
from fmsci.world import World
from tests.engine.curves import LR, Remembered

LAYERS = 3


def train(monkeypatch, large, steps=4, pieces=1, backend="dft", **engine):
    """Return the weights, and for each step where the gradient of each layer's spectral weights lay."""
    monkeypatch.setattr(ddp, "LARGE_BYTES", large)
    torch.manual_seed(0)
    scales = Scales(1.0, {"a": 1.0, "b": 1.0, "c": 1.0})
    operator = SolutionOperator(Architecture(4, 4, 4, LAYERS), scales, backend=backend)
    optimizer = build_optimizer(operator, OptimSettings(epochs=1, lr=LR))
    trained = build_engine(EngineSettings(**engine), operator, optimizer, World(), None, False)
    samples = Remembered()
    spectral = [layer.spectral for layer in operator.fno.layers]
    places = []
    optimizer.register_step_pre_hook(lambda *_: places.append([one.grad.data_ptr() for one in spectral]))
    kept = []  # so that no other block lies where a gradient was freed
    for _ in range(steps):
        given = [samples.gather(np.arange(4) + 4 * at) for at in range(pieces)]
        trained.step(Batch([Piece(one, 4) for one in given], 4 * pieces), LR)
        assert all(one.grad is None for one in operator.parameters())
        kept.append([torch.empty_like(one) for one in spectral])
    return operator, list(zip(*places, strict=True))


SPECTRAL_BYTES = 4 * 4 * 4**2 * 4**2


@pytest.mark.parametrize("pieces", [1, 2])
def test_gradients_lie_where_they_lay_and_are_the_same(monkeypatch, pieces):
    """But for the first layer's, which comes last; smaller parameters are left alone."""
    plain, moving = train(monkeypatch, SPECTRAL_BYTES + 1, pieces=pieces)
    left, places = train(monkeypatch, SPECTRAL_BYTES, pieces=pieces)
    assert [len(set(of_layer)) for of_layer in places[1:]] == [1] * (LAYERS - 1)
    assert all(len(set(of_layer)) > 1 for of_layer in (*moving, places[0]))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, left.state_dict()[name]), name
    holding = [name for name, one in left.named_parameters() if getattr(one, "gradient_left", None) is not None]
    assert holding == [f"fno.layers.{at}.spectral" for at in range(1, LAYERS)]


@pytest.mark.parametrize("how", [{"precision": "bf16"}, {"backend": "fft"}])
def test_nothing_is_left_where_the_gradient_is_made_elsewhere(monkeypatch, how):
    """In bfloat16 the layer writes a gradient of that type, which autograd turns into one of float32."""
    operator, _ = train(monkeypatch, 1, **how)
    assert not [name for name, one in operator.named_parameters() if hasattr(one, "gradient_left")]


def test_what_is_left_is_taken_once_and_only_where_it_fits():
    weight = torch.nn.Parameter(torch.randn(4, 6))
    for left, fits in (
        (torch.empty(4, 6), True),
        (torch.empty(6, 4), False),
        (torch.empty(6, 4).t(), False),
        (torch.empty(4, 6, dtype=torch.float64), False),
    ):
        weight.gradient_left = left
        first, second = gradient_room(weight), gradient_room(weight)
        assert (first is left) is fits
        assert second is not first
        assert all(
            (one.shape, one.dtype, one.is_contiguous()) == (weight.shape, weight.dtype, True) for one in (first, second)
        )
    assert not hasattr(copy.deepcopy(weight), "gradient_left")
