"""The kernels for a GPU against the layer's other form in float64; here in Triton's interpreter, on a GPU as they are.

tests/conftest.py chooses the interpreter. It knows no bfloat16 products: tests/model/test_gpu.py holds those.
"""

import gc
import json
import math
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from fmsci.model import constants, fused, fused_head, tiles
from fmsci.model.head import Head
from fmsci.model.layer import FourierLayer
from tests.commands import clean_environment

ROOT = Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="there is no Triton here")

IN_TWO = {"descend_z", "descend_a"}
"""The tiles of wide layers in float32."""


@pytest.fixture(autouse=True)
def no_tiles_of_before():
    from fmsci.model.kernels import start

    start._fitting.clear()
    yield
    start._fitting.clear()


def make_small(monkeypatch):
    """Tiles of 16 and few programs, whatever was measured to be better: each loop over tiles has several turns."""
    monkeypatch.setattr(tiles, "BETTER", {})
    for kernel, usual in tiles.USUAL.items():
        sides = {name: min(value, 16) for name, value in usual.items() if name[0] == "B" and name[:2] != "BC"}
        few = {name: 3 for name in ("programs", "ROWS") if name in usual}
        monkeypatch.setitem(tiles.USUAL, kernel, usual | sides | few)


def kernels_started(monkeypatch):
    """Return the set in which the names of the kernels are that start from now on."""
    from fmsci.model.kernels import start

    plain, started = start.start, set()

    def noting(kernel, grid, given, dtype, lengths, called=None, **constants):
        started.add(called or kernel.__name__)
        plain(kernel, grid, given, dtype, lengths, called, **constants)

    monkeypatch.setattr(start, "start", noting)
    return started


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
        (2, 5, 6, 72, 2, True, False),  # so wide that field and pointwise matrix have their gradients in two passes
    ],
)
def test_the_layer_and_its_gradient(batch, height, width, channels, modes, activate, small, monkeypatch):
    if small:
        make_small(monkeypatch)
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


@pytest.mark.parametrize(
    ("points", "channels", "small"),
    [((2, 8, 9), 16, False), ((1, 5, 5), 6, False), ((1, 9, 11), 40, False), ((1, 9, 11), 12, True)],
)
def test_the_head_and_its_gradient(points, channels, small, monkeypatch):
    if small:
        make_small(monkeypatch)
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
        for channels, dtype, products in (
            (16, torch.bfloat16, "tf32"),
            (128, torch.float32, "tf32"),
            (128, torch.float32, "tf32x3"),
            (128, torch.float32, "bf16x6"),
        ):
            tile = tiles.tiles(kernel, channels, dtype, products)
            areas = []
            while tile is not None:
                sides = {name: value for name, value in tile.items() if name in tiles.SHRINKS}
                assert all(value >= 16 and value & (value - 1) == 0 for value in sides.values())
                areas.append((math.prod(sides.values()), tile["num_stages"]))
                tile = tiles.smaller(tile)
            assert areas == sorted(set(areas), reverse=True)
            assert areas[-1] == (16 ** len(sides), 1)


def test_products_of_float32_are_of_the_kind_whose_tiles_they_have():
    """Six of bfloat16 only where they may be: Triton before 3.6 and its interpreter know none."""
    made = {
        asked: {kernel: tiles.tiles(kernel, 128, torch.float32, asked)["PRECISION"] for kernel in tiles.USUAL}
        for asked in tiles.KINDS
    }
    assert set(made["tf32"].values()) == {"tf32"}
    assert set(made["tf32x3"].values()) == {"tf32x3"}
    six = {kernel for kernel, kind in made["bf16x6"].items() if kind == "bf16x6"}
    assert six == {"analyse", "synthesise", "descend_a", "head_grad_v"}
    assert set(made["bf16x6"].values()) == {"bf16x6", "tf32x3"}


def test_a_kernel_starts_in_the_first_tiles_that_fit_and_keeps_them_for_this_gpu():
    """Shared memory for tiles of 32 is all that this stand-in for a small GPU has."""
    from triton import OutOfResources

    from fmsci.model.kernels.start import start

    tried = []

    class SmallGPU:
        __name__ = "mix"

        def __getitem__(self, grid):
            return self.launch

        def launch(self, *given, **constants):
            tried.append(constants)
            if max(constants[name] for name in ("BB", "BI", "BO")) > most or constants["num_stages"] > 1:
                raise OutOfResources(1 << 18, 1 << 16, "shared memory")

    def start_on(device, channels=96):
        given = (None, torch.empty(1, device=device))
        start(SmallGPU(), lambda tile: (1,), given, torch.float16, lengths, C=channels, PRECISION="tf32")

    most = 32
    lengths = {"BB": 64, "BI": 96, "BO": 96}
    for device, expected in (("cpu", 4), ("cpu", 1), ("meta", 4), ("meta", 1)):
        tried.clear()
        start_on(device)
        assert len(tried) == expected
        assert tried[-1]["BB"] == tried[-1]["BO"] == 32
    most = 8
    with pytest.raises(RuntimeError, match="mix does not fit this GPU"):
        start_on("cpu", 97)


@pytest.mark.parametrize("modes", [4, 256])
def test_no_axis_of_a_grid_is_longer_than_a_gpu_counts(modes):
    """256 is as many as ``auto`` gives to the kernels: 131,072 wavenumbers."""
    from tests.model.launches import launches

    started = launches(64, (4 * modes, 2 * modes), 16, modes)
    assert {one.called for one in started} == set(tiles.USUAL) - IN_TWO
    for one in started:
        first, *others = one.grid(one.tile)
        assert 0 < first < 2**31
        assert all(0 < count < 2**16 for count in others)
    assert any(one.grid(one.tile)[0] == 2 * modes**2 for one in started)


@pytest.mark.slow
@pytest.mark.parametrize(("number_type", "without"), [("bfloat16", IN_TWO), ("float32", {"descend"})])
def test_every_kernel_compiles_for_an_h100(number_type, without, tmp_path):
    """The launches of the 256M model, as they are and not in the interpreter."""
    command = [sys.executable, "-m", "tests.model.launches", "128", "32", number_type]
    environment = clean_environment(TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {one["kernel"] for one in found} == set(tiles.USUAL) - without
    assert all(one["binary"] > 1000 for one in found)
    assert all(one["tries"] == 1 for one in found)  # what was measured to be better fits
    assert not any(one["narrow"] for one in found if one["kernel"].startswith("mix"))  # K C^2 passes 2^31


FROZEN = [
    ((True, False, False, False), {"analyse", "mix", "descend"}),
    ((False, True, False, False), {"analyse", "mix_grad"}),
    ((False, False, True, False), {"descend"}),
    ((False, False, False, True), {"analyse"}),
    ((True, True, False, True), {"analyse", "mix", "mix_grad", "descend"}),
    ((True, False, True, False), {"analyse", "mix", "descend"}),
]


@pytest.mark.parametrize("channels", [6, 65])
@pytest.mark.parametrize(("wanted", "expected"), FROZEN)
def test_a_frozen_layer_pays_for_no_gradient_of_its_own(wanted, expected, channels, monkeypatch):
    """From 65 channels on, in float32, the two gradients of the last kernel are two passes."""
    if channels == 65:
        parts = {name for name, need in (("descend_z", wanted[0]), ("descend_a", wanted[2])) if need}
        expected = expected - {"descend"} | parts
    torch.manual_seed(0)
    layer = FourierLayer(channels, 2, "dft", True, "balanced").to(DEVICE)
    given = (
        torch.randn(2, 5, 6, channels, device=DEVICE),
        layer.spectral.detach(),
        layer.pointwise.detach(),
        layer.bias.detach(),
    )
    every = [one.clone().requires_grad_() for one in given]
    of_all = torch.autograd.grad(fused.fourier_layer(*every, True).square().sum(), every)
    some = [one.clone().requires_grad_(need) for one, need in zip(given, wanted, strict=True)]
    out = fused.fourier_layer(*some, True)
    assert (out.grad_fn.saved_tensors[3] is not None) == wanted[1]  # the spectrum
    started = kernels_started(monkeypatch)
    found = torch.autograd.grad(out.square().sum(), [one for one in some if one.requires_grad])
    assert started == expected
    for ours, other in zip(found, [one for one, need in zip(of_all, wanted, strict=True) if need], strict=True):
        assert torch.allclose(ours, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("trained", "expected"),
    [("v", {"head_grad_v"}), ("weights", {"head_grad_weights"}), ("outer_bias", set())],
)
def test_a_frozen_head_pays_for_no_gradient_of_its_own(trained, expected, monkeypatch):
    torch.manual_seed(0)
    head = Head(4).to(DEVICE).requires_grad_(False)
    v = torch.randn(1, 3, 5, 4, device=DEVICE, requires_grad=trained == "v")
    weights = [head.inner, head.inner_bias, head.outer, head.outer_bias]
    of = {"v": [v], "weights": weights, "outer_bias": [head.outer_bias]}[trained]
    for one in of:
        one.requires_grad_()
    out = fused_head.head(v, *weights)
    started = kernels_started(monkeypatch)
    found = torch.autograd.grad(out.square().sum(), of)
    assert started == expected
    for ours, other in zip(found, torch.autograd.grad(head(v).square().sum(), of), strict=True):
        assert torch.allclose(ours, other, rtol=1e-4, atol=1e-5)


def test_constants_live_as_long_as_who_keeps_them():
    def evicted():
        for height in range(100, 101 + constants.KEPT):
            fused.waves(height, 8, 2, torch.float32, torch.device("cpu"), "tf32x3")
        gc.collect()
        return reference() is None

    with constants.keeping() as kept:
        reference = weakref.ref(fused.waves(11, 9, 2, torch.float32, torch.device("cpu"), "tf32x3")[0])
    assert len(kept) == 1
    assert not evicted()
    kept.clear()
    assert evicted()
