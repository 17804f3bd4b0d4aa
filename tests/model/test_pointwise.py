"""The compiled pass over points is torch's operations in float64, in every kind of core, and may be missing."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from fmsci.model import compiled, pointwise
from fmsci.model.fno import FNO
from tests.model.on_cpu import BUILT, close

ROWS = (1, 47, 2048 + 53)  # fewer than a core takes at once, and more than a block


@BUILT
def test_gelu_and_its_gradient_are_nearer_to_float64_than_torchs(lanes):
    x = torch.linspace(-14, 14, 160_016).view(-1, 16)
    eye, nothing = torch.eye(16), torch.zeros_like(x)
    exact = x.double().requires_grad_()
    expected = functional.gelu(exact)
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    expected = expected.detach()

    product = torch.empty_like(x)
    found = pointwise.activated_product(x, eye, product)
    error = (found - expected).abs() / expected.abs().clamp_min(1)
    assert error.max() < 2.5e-7
    assert (found - expected).abs().max() < (functional.gelu(x) - expected).abs().max()
    assert torch.equal(product, found)

    found = torch.ones_like(x)
    pointwise.layer_gradient(nothing, x, eye, found, torch.zeros(16, 16))
    assert (found - slope).abs().max() < 3e-7


@BUILT
def test_what_is_no_number_is_not_hidden(lanes):
    given = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 1e30, -1e30, 1e-40, -0.0] * 2).view(1, 16)
    found = pointwise.activated_product(given, torch.eye(16), torch.empty(1, 16))[0, :8]
    assert found[0].isnan()
    assert found[1] == math.inf
    assert not (found[2] > -1e-3)  # nothing, or no number: as torch's
    assert torch.equal(found[3:5], given[0, 3:5])
    assert abs(found[5]) < 1
    assert found[6:].abs().max() < 1e-40
    grad = torch.ones(1, 16)
    pointwise.layer_gradient(torch.zeros(1, 16), given, torch.eye(16), grad, torch.zeros(16, 16))
    assert grad[0, 0].isnan()
    assert abs(grad[0, 4] - 1) < 1e-6


@BUILT
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("width", [16, 32, 48, 64])
def test_a_layer_at_its_points_is_that_in_float64(lanes, calls, width, rows):
    torch.manual_seed(0)
    z, above, grad = (torch.randn(rows, width) for _ in range(3))
    matrix, total = torch.randn(width, width) / math.sqrt(width), torch.randn(width, width)

    exact = z.double().requires_grad_()
    v = functional.gelu(exact)
    out = torch.empty_like(z)
    assert close(pointwise.activated_product(z, matrix.t().contiguous(), out), v, 3e-7)
    assert close(out, v @ matrix.double().t(), 3e-6)

    (slope,) = torch.autograd.grad(v.sum(), exact)
    expected = (grad.double() + above.double() @ matrix.double()) * slope
    expected_total = total.double() + above.double().t() @ v.detach()
    pointwise.layer_gradient(above, z, matrix, grad, total)
    assert close(grad, expected, 3e-6)
    assert close(total, expected_total, 5e-6)
    assert calls == ["activated_product", "layer_gradient"]


@BUILT
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("width", [16, 32, 48, 64])
def test_the_head_at_its_points_is_that_in_float64(lanes, calls, width, rows):
    torch.manual_seed(0)
    v, inner, inner_bias = torch.randn(rows, width), torch.randn(2 * width, width) / 4, torch.randn(2 * width)
    outer, outer_bias, above = torch.randn(1, 2 * width), torch.randn(1), torch.randn(rows, 1)
    exact = [one.double().requires_grad_() for one in (v, inner, inner_bias, outer)]
    hidden = functional.gelu(functional.linear(exact[0], exact[1], exact[2]))
    expected = functional.linear(hidden, exact[3], outer_bias.double())
    gradients = torch.autograd.grad(expected, exact, above.double())

    head, found, grad_v = pointwise.HeadAtPoints(inner, inner_bias, outer), torch.empty(rows, 1), torch.empty_like(v)
    head.values(v, outer_bias, found)
    assert close(found, expected, 5e-6)
    for _ in range(2):  # sums over pieces
        head.add_gradient(v, above, grad_v)
    assert close(grad_v, gradients[0], 5e-6)
    for ours, once in zip((head.grad_inner, head.grad_bias, head.grad_outer), gradients[1:], strict=True):
        assert close(ours.view_as(once), 2 * once, 1e-5)
    assert calls == ["head", "head_gradient", "head_gradient"]


@BUILT
def test_the_bits_do_not_depend_on_the_number_of_threads(lanes, calls):
    def step(threads):
        torch.manual_seed(0)
        z, above, grad = (torch.randn(5000, 32) for _ in range(3))
        matrix, total, out = torch.randn(32, 32), torch.zeros(32, 32), torch.empty(5000, 32)
        head, u, grad_v = pointwise.HeadAtPoints(torch.randn(64, 32), matrix[0].repeat(2), matrix[:1].repeat(1, 2)), \
            torch.empty(5000, 1), torch.empty(5000, 32)  # fmt: skip
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            v = pointwise.activated_product(z, matrix, out)
            pointwise.layer_gradient(above, z, matrix, grad, total)
            head.values(v, matrix[0, :1], u)
            head.add_gradient(v, u, grad_v)
        finally:
            torch.set_num_threads(before)
        return v, out, grad, total, u, grad_v, head.sums

    for one, other in zip(step(1), step(3), strict=True):
        assert torch.equal(one, other)
    assert len(calls) == 8


@BUILT
def test_a_training_step_goes_through_it_and_is_the_same_without(monkeypatch, calls):
    torch.manual_seed(0)
    model, x = FNO(4, 16, 8), torch.randn(3, 4, 32, 32)

    def step():
        model.zero_grad()
        u = model(x)
        u.square().sum().backward()
        return [u.detach(), *(one.grad.clone() for one in model.parameters())]

    ours = step()
    assert set(calls) == {"activated_product", "layer_gradient", "head", "head_gradient", "mix", "mix_gradient"}
    monkeypatch.setattr(compiled, "library", lambda: None)
    count = len(calls)
    for with_it, without in zip(ours, step(), strict=True):
        assert (with_it - without).norm() < 1e-5 * without.norm()
    assert len(calls) == count


@BUILT
@pytest.mark.parametrize(
    "points",
    [
        torch.zeros(4, 8),
        torch.zeros(4, 24),
        torch.zeros(4, 80),
        torch.zeros(4, 16, dtype=torch.float64),
        torch.zeros(4, 16, dtype=torch.bfloat16),
        torch.zeros(4, 16, device="meta"),
        torch.zeros(16, 16).t()[:, :16].t()[::2],
        torch.zeros(4, 16).to_sparse(),
        torch._efficientzerotensor((4, 16)),
        torch._neg_view(torch.ones(4, 16)),
    ],
    ids=str,
)
def test_what_it_is_not_made_for_is_torchs(points):
    assert not pointwise.serves(points)


@BUILT
def test_numbers_without_memory_are_torchs():
    with FakeTensorMode():
        points = torch.zeros(4, 16)
    assert points.device.type == "cpu"
    assert not pointwise.serves(points)
    assert pointwise.serves(torch.zeros(4, 16), torch.nn.Parameter(torch.zeros(16, 16)))
    assert not pointwise.serves(torch.zeros(4, 16), torch.zeros(16, 16, dtype=torch.bfloat16))


@BUILT
def test_parameters_are_taken_as_they_are_or_refused(calls):
    """Spread out in memory, one number for all, not gathered: what the pass cannot read is torch's to use or refuse."""
    torch.manual_seed(0)
    v, inner, outer = torch.randn(100, 16), torch.randn(32, 16), torch.randn(1, 32)
    for bias in (torch.randn(64)[::2], torch.randn(1).expand(32)):
        found = [torch.empty(100, 1), torch.empty(100, 1)]
        for one, out in zip((bias, bias.contiguous()), found, strict=True):
            pointwise.HeadAtPoints(inner, one, outer).values(v, torch.zeros(1), out)
        assert close(found[0], found[1].double(), 5e-6)
    assert calls == ["head", "head"]
    for matrix in (torch.empty(0), torch.zeros(15, 16)):
        with pytest.raises(RuntimeError):
            pointwise.activated_product(v, matrix, torch.empty(100, 16))
        with pytest.raises(RuntimeError):
            pointwise.layer_gradient(v, v, matrix, v.clone(), torch.zeros(16, 16))
        with pytest.raises(RuntimeError):
            pointwise.HeadAtPoints(inner, matrix.flatten(), outer).values(v, torch.zeros(1), torch.empty(100, 1))
    assert len(calls) == 2
