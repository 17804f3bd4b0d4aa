"""The kernels for a GPU against the layer's other form in float64; here in Triton's interpreter, on a GPU as they are.

tests/conftest.py chooses the interpreter. It knows no bfloat16 products: tests/model/test_gpu.py holds those.
"""

import pytest
import torch

from fmsci.model import fused, tiles
from fmsci.model.head import Head
from fmsci.model.layer import FourierLayer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="there is no Triton here")


def errors(ours, theirs):
    return [
        float((one.detach().double() - other.detach()).norm() / other.detach().norm())
        for one, other in zip(ours, theirs, strict=True)
    ]


@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "modes", "activate", "small"),
    [
        (2, 8, 16, 16, 4, True, False),  # every side fills its tile
        (3, 13, 10, 12, 5, False, False),  # odd grid, channels that are no power of two, no activation
        (17, 6, 20, 20, 3, True, True),  # more than one tile along x, of samples and of channels in the mixing
        (1, 18, 19, 4, 9, True, True),  # more than one tile of waves
    ],
)
def test_the_layer_and_its_gradient(batch, height, width, channels, modes, activate, small, monkeypatch):
    if small:
        for kernel, usual in tiles.USUAL.items():
            sides = {name: min(value, 16) for name, value in usual.items() if name[0] == "B" and name != "BC"}
            monkeypatch.setitem(tiles.USUAL, kernel, usual | sides)
    torch.manual_seed(0)
    layer = FourierLayer(channels, modes, "dft", activate, "balanced").to(DEVICE)
    torch.nn.init.normal_(layer.bias)
    oracle = FourierLayer(channels, modes, "fft", activate).to(DEVICE).double()
    oracle.load_state_dict(layer.state_dict())
    z = torch.randn(batch, height, width, channels, device=DEVICE, requires_grad=True)
    grad = torch.randn_like(z)
    weights = (layer.spectral, layer.pointwise, layer.bias)
    out = fused.fourier_layer(z, *weights, activate)
    ours = (out, *torch.autograd.grad(out, [z, *weights], grad))
    exact = z.detach().double().requires_grad_()
    expected = oracle(exact)
    of = [exact, oracle.spectral, oracle.pointwise, oracle.bias]
    assert max(errors(ours, (expected, *torch.autograd.grad(expected, of, grad.double())))) < 1e-5


@pytest.mark.parametrize(("points", "channels"), [((2, 8, 9), 16), ((1, 5, 5), 6), ((1, 9, 11), 40)])
def test_the_head_and_its_gradient(points, channels):
    torch.manual_seed(0)
    head = Head(channels).to(DEVICE)
    oracle = Head(channels).to(DEVICE).double()
    oracle.load_state_dict(head.state_dict())
    v = torch.randn(*points, channels, device=DEVICE, requires_grad=True)
    out = fused.head(v, head.inner, head.inner_bias, head.outer, head.outer_bias)
    grad = torch.randn_like(out)
    ours = (out, *torch.autograd.grad(out, [v, *head.parameters()], grad))
    exact = v.detach().double().requires_grad_()
    expected = oracle(exact)
    theirs = torch.autograd.grad(expected, [exact, *oracle.parameters()], grad.double())
    assert max(errors(ours, (expected, *theirs))) < 1e-5


def test_nothing_outside_a_tile_is_read_or_written():
    """Numbers that are no numbers lie around the field and would spread."""
    torch.manual_seed(0)
    layer = FourierLayer(12, 3, "dft", True).to(DEVICE)
    room = torch.full((3, 9, 7, 12), torch.nan, device=DEVICE)
    room[1] = torch.randn(9, 7, 12, device=DEVICE)
    z = room[1:2].requires_grad_()
    out = fused.fourier_layer(z, layer.spectral, layer.pointwise, layer.bias, True)
    (grad,) = torch.autograd.grad(out.sum(), z)
    assert torch.isfinite(out).all()
    assert torch.isfinite(grad).all()
    assert room[0].isnan().all()
    assert room[2].isnan().all()


def test_which_fields_the_kernels_take():
    on_gpu = DEVICE == "cuda"
    for dtype, expected in ((torch.float32, on_gpu), (torch.bfloat16, on_gpu), (torch.float64, False)):
        assert fused.serves(torch.empty(1, device=DEVICE, dtype=dtype), 128) == expected
    assert not fused.serves(torch.empty(1, device=DEVICE), fused.WIDEST + 1)
