"""The mixing and its gradients are complex products in float64, in every kind of core, compiled or not."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from fmsci.model import compiled, mixing
from fmsci.model.fno import FNO
from tests.model.on_cpu import BUILT, close

SHAPES = [
    (3, 1, 16, 16),
    (2, 2, 32, 32),
    (4, 3, 16, 48),
    (2, 5, 128, 128),
    (3, 8, 48, 16),
    (2, 13, 32, 64),
    (1, 4, 16, 256),
]
"""Modes, samples, channels before and after: whole blocks of samples and columns, and what is left of them."""


def given(modes, samples, left, right):
    torch.manual_seed(modes + samples)
    rows, grad = (torch.randn(2 * modes**2, 2 * samples, width) for width in (left, right))
    return rows, torch.randn(2, 2 * modes, modes, left, right) / math.sqrt(left), grad


def exactly(rows, weight, grad):
    """Return the same in complex numbers: V W, and the gradients G W^H and V^H G."""
    v, g = (torch.complex(*one.double().chunk(2, dim=1)) for one in (rows, grad))
    w = torch.complex(*weight.double().flatten(1, 2))
    mixed, back, matrices = v @ w, g @ w.mH, v.mH @ g
    parts = [torch.cat((one.real, one.imag), dim=1) for one in (mixed, back)]
    return [*parts, torch.stack((matrices.real, matrices.imag)).view_as(weight)]


def everything(rows, weight, grad):
    return [mixing.mix(rows, weight), *mixing.gradients_of_mixing(rows, grad, weight)]


@BUILT
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_complex_product_in_float64(lanes, calls, shape):
    values = given(*shape)
    for ours, exact in zip(everything(*values), exactly(*values), strict=True):
        assert close(ours, exact, 2e-6)
    assert calls == ["mix", "mix_gradient"]


@BUILT
@pytest.mark.parametrize("shift", [0, 1])
def test_a_gradient_written_past_the_caches_is_the_same(lanes, calls, monkeypatch, shift):
    values = given(2, 3, 32, 16)
    usual = everything(*values)
    room = torch.empty(values[1].numel() + 16)[shift:][: values[1].numel()].view_as(values[1])  # not at a line of them
    monkeypatch.setattr(mixing, "gradient_room", lambda weight: room)
    monkeypatch.setattr(mixing, "FAR_BYTES", 0)
    for one, other in zip(usual, everything(*values), strict=True):
        assert torch.equal(one, other)
    assert len(calls) == 4


@BUILT
def test_the_bits_do_not_depend_on_the_number_of_threads(lanes, calls):
    def found(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return everything(*given(5, 3, 32, 32))
        finally:
            torch.set_num_threads(before)

    for one, other in zip(found(1), found(3), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_without_them_torch_does_the_same(calls, monkeypatch, shape):
    monkeypatch.setattr(compiled, "library", lambda: None)
    values = given(*shape)
    for ours, exact in zip(everything(*values), exactly(*values), strict=True):
        assert close(ours, exact, 2e-6)
    assert calls == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("width", [16, 128])
def test_a_traced_model_is_the_model(calls, width):
    torch.manual_seed(0)
    model, x = FNO(4, width, 4), torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        expected = model(x)
        called = list(calls)
        traced = torch.jit.trace(model, x, check_trace=False)
        seen = make_fx(model)(x)
    assert calls == called
    for other in (x, x.flip(0) + 1):
        with torch.no_grad():
            expected = model(other)
            for again in (traced(other), seen(other)):
                assert (again - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("change", ["width", "wide", "float64", "bfloat16", "spread out", "stands for one"])
def test_what_they_are_not_made_for_is_torchs(calls, change):
    left = {"width": 24, "wide": 272}.get(change, 16)
    rows, weight, grad = given(2, 2, left, left)
    if change in {"float64", "bfloat16"}:
        rows, weight, grad = (one.to(getattr(torch, change)) for one in (rows, weight, grad))
    elif change == "spread out":
        rows = rows.transpose(0, 2).contiguous().transpose(0, 2)
    elif change == "stands for one":
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert everything(*map(mode.from_tensor, (rows, weight, grad)))[2].shape == weight.shape
            assert calls == []
        return
    for ours, exact in zip(everything(rows, weight, grad), exactly(rows, weight, grad), strict=True):
        assert close(ours, exact, 0.1 if change == "bfloat16" else 2e-6)
    assert calls == []


def test_what_does_not_belong_together_is_refused():
    rows, weight, grad = given(2, 2, 16, 16)
    for wrong in (
        (rows[:7], weight, grad[:7]),
        (rows[..., :8].contiguous(), weight, grad),
        (rows, weight[:1].contiguous(), grad),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            everything(*wrong)
    with pytest.raises((RuntimeError, ValueError)):
        mixing.gradients_of_mixing(rows, grad[:, :2].contiguous(), weight)
