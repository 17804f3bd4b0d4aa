"""The kernels for a GPU against the layer's other form in float64; here in Triton's interpreter, on a GPU as they are.

tests/conftest.py chooses the interpreter. It knows no bfloat16 products: tests/model/test_gpu.py holds those.
"""

import math

import pytest
import torch

from fmsci.model import fused, fused_head, tiles
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
    out = fused_head.head(v, head.inner, head.inner_bias, head.outer, head.outer_bias)
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


def test_tiles_that_do_not_fit_become_smaller_until_none_is_left():
    for kernel in tiles.USUAL:
        for channels, dtype in ((16, torch.bfloat16), (128, torch.float32)):
            tile: dict[str, int] | None = tiles.tiles(kernel, channels, dtype)
            areas = []
            while tile is not None:
                sides = {name: value for name, value in tile.items() if name in tiles.SHRINKS}
                assert all(value >= 16 and value & (value - 1) == 0 for value in sides.values())
                areas.append((math.prod(sides.values()), tile["num_stages"]))
                tile = tiles.smaller(tile)
            assert areas == sorted(set(areas), reverse=True)
            assert areas[-1] == (16 ** len(sides), 1)


def test_a_kernel_starts_in_the_first_tiles_that_fit_and_keeps_them():
    """Shared memory for tiles of 32 is all that this stand-in for a small GPU has."""
    from triton import OutOfResources

    from fmsci.model.kernels.start import start

    tried = []

    class SmallGPU:
        def __getitem__(self, grid):
            return self.launch

        def launch(self, *given, **constants):
            tried.append(constants)
            if max(constants[name] for name in ("BB", "BI", "BO")) > most or constants["num_stages"] > 1:
                raise OutOfResources(1 << 18, 1 << 16, "shared memory")

    most = 32
    lengths = {"BB": 64, "BI": 96, "BO": 96}
    for expected in (4, 1):
        tried.clear()
        start(SmallGPU(), "mix", lambda tile: (1,), (), torch.float16, lengths, C=96, PRECISION="tf32")
        assert len(tried) == expected
        assert tried[-1]["BB"] == tried[-1]["BO"] == 32
    most = 8
    with pytest.raises(RuntimeError, match="mix does not fit this GPU"):
        start(SmallGPU(), "mix", lambda tile: (1,), (), torch.float16, lengths, C=97, PRECISION="tf32")
