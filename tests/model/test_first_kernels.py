"""The first layer with the lift in it, in the kernels for a GPU, against the fast transform in float64.

In Triton's interpreter where there is no GPU; see tests/model/test_kernels.py.
"""

import pytest
import torch

from fmsci.model import fused, fused_first, tiles
from fmsci.model.fno import FNO, Lift
from fmsci.model.layer import FourierLayer
from tests.model.test_kernels import DEVICE, errors, kernels_started, make_small, no_tiles_of_before  # noqa: F401

pytest.importorskip("triton", reason="there is no Triton here")


def lift_and_layer(given, channels, modes):
    torch.manual_seed(0)
    lift, layer = Lift(given, channels), FourierLayer(channels, modes, "dft", False, "balanced")
    torch.nn.init.normal_(layer.bias)
    return lift.to(DEVICE), layer.to(DEVICE)


def weights_of(lift, layer):
    return [lift.weight, lift.bias, layer.spectral, layer.pointwise, layer.bias]


@pytest.fixture
def in_kernels(monkeypatch):
    """A model in float32 computes in the kernels, on a CPU too."""
    monkeypatch.setattr(fused, "serves", lambda values, width, dtype=None: values.dtype == torch.float32)


@pytest.mark.parametrize(
    ("batch", "height", "width", "given", "channels", "modes", "small"),
    [
        (2, 8, 16, 4, 16, 4, False),
        (3, 13, 10, 3, 12, 5, False),  # odd grid, channels that are no power of two
        (17, 6, 20, 1, 20, 3, True),  # more than one tile along x, of samples, of channels in the mixing, of points
        (1, 18, 19, 5, 4, 9, True),  # more than one tile of waves, and more channels given than made
        (2, 7, 6, 20, 24, 2, False),  # given channels that fill more than the shortest side
    ],
)
def test_the_first_layer_and_its_gradient(batch, height, width, given, channels, modes, small, monkeypatch):
    if small:
        make_small(monkeypatch)
    lift, layer = lift_and_layer(given, channels, modes)
    x = 1 + torch.randn(batch, given, height, width, device=DEVICE)  # with a mean, which the lift's bias is added to
    out = fused_first.lifted_layer(x, *weights_of(lift, layer), torch.float32)
    grad = 1 + torch.randn_like(out)
    ours = (out, *torch.autograd.grad(out, weights_of(lift, layer), grad))
    exact = FourierLayer(channels, modes, "fft", False).to(DEVICE).double()
    exact.load_state_dict(layer.state_dict())
    lift = lift.double()
    expected = exact(lift(x.double()))
    theirs = torch.autograd.grad(expected, weights_of(lift, exact), grad.double())
    assert max(errors(ours, (expected, *theirs))) < 1e-5


FROZEN = [
    ((True, False, False, False, False), {"analyse", "mix", "outer"}, (True, True)),
    ((False, True, False, False, False), {"analyse", "mix"}, (False, False)),
    ((False, False, True, False, False), {"analyse", "mix_grad"}, (False, True)),
    ((False, False, False, True, False), {"analyse", "outer"}, (True, False)),
    ((False, False, False, False, True), {"analyse"}, (False, False)),
    ((True, True, True, True, True), {"analyse", "mix", "mix_grad", "outer"}, (True, True)),
]


@pytest.mark.parametrize(("wanted", "expected", "kept"), FROZEN)
def test_frozen_parts_start_no_kernel_of_their_own_and_keep_nothing(wanted, expected, kept, monkeypatch):
    lift, layer = lift_and_layer(3, 6, 2)
    x = torch.randn(2, 3, 5, 6, device=DEVICE)
    every = weights_of(lift, layer)
    out = fused_first.lifted_layer(x, *every, torch.float32)
    of_all = torch.autograd.grad(out.square().sum(), every)
    some = [one.detach().clone().requires_grad_(need) for one, need in zip(every, wanted, strict=True)]
    out = fused_first.lifted_layer(x, *some, torch.float32)
    assert tuple(one is not None for one in out.grad_fn.saved_tensors[:2]) == kept  # x and its spectrum
    started = kernels_started(monkeypatch)
    found = torch.autograd.grad(out.square().sum(), [one for one in some if one.requires_grad])
    assert started == expected
    for ours, other in zip(found, [one for one, need in zip(of_all, wanted, strict=True) if need], strict=True):
        assert torch.allclose(ours, other, rtol=1e-5, atol=1e-5)


def test_nothing_outside_a_tile_is_read_or_written(monkeypatch):
    """Numbers that are no numbers lie around the copy of x and the gradient, and would spread."""
    lift, layer = lift_and_layer(3, 12, 3)

    def between(values):
        room = torch.full((3, *values.shape), torch.nan, device=DEVICE)
        room[1] = values
        rooms.append(room)
        return room[1]

    rooms = []
    plain = fused_first._channels_last
    monkeypatch.setattr(fused_first, "_channels_last", lambda x, dtype: between(plain(x, dtype)))
    x = torch.randn(1, 3, 9, 7, device=DEVICE)
    out = fused_first.lifted_layer(x, *weights_of(lift, layer), torch.float32)
    found = torch.autograd.grad(out, weights_of(lift, layer), between(torch.randn_like(out)))
    assert all(torch.isfinite(one).all() for one in (out, *found))
    assert len(rooms) == 3
    assert all(room[0].isnan().all() and room[2].isnan().all() for room in rooms)


def test_the_sum_over_points_is_the_same_in_every_run_and_exact(monkeypatch):
    """More points than the programs have in two turns, and a last tile that is not full."""
    make_small(monkeypatch)
    torch.manual_seed(0)
    tile = tiles.USUAL["outer"]
    points = 2 * tile["programs"] * tile["BP"] + 5
    grad, v = torch.randn(points, 16, device=DEVICE), torch.randn(points, 4, device=DEVICE)
    found = fused_first._outer(grad, v)
    assert torch.equal(found, fused_first._outer(grad, v))
    assert errors([found], [grad.double().t() @ v.double()])[0] < 1e-6


def test_a_model_lifts_in_its_first_layer_and_keeps_no_lifted_field(in_kernels):
    """All of it in the kernels; what it keeps is counted by the architecture."""
    torch.manual_seed(2)
    model = FNO(4, 6, 3, layers=2, initial="balanced").to(DEVICE)
    x = torch.randn(3, 4, 9, 8, device=DEVICE)
    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), x)}
    own_lift: list[torch.Tensor] = []
    model.lift.register_forward_hook(lambda module, given, out: own_lift.extend(out))
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        u = model(x)
    own |= {one.untyped_storage().data_ptr() for one in own_lift}
    assert "_Lifted" in str(lowest(u.grad_fn))
    kept = sum(size for place, size in saved.items() if place not in own)
    assert kept == 3 * model.architecture.saved_bytes(9, 8, joined=model.architecture.joins_lift())
    ours = (u, *torch.autograd.grad(u.square().sum(), list(model.parameters())))
    exact = FNO(4, 6, 3, layers=2, backend="fft").to(DEVICE).double()
    exact.load_state_dict(model.state_dict())
    expected = exact(x.double())
    theirs = torch.autograd.grad(expected.square().sum(), list(exact.parameters()))
    assert max(errors(ours, (expected, *theirs))) < 1e-5


def lowest(step):
    """Return the first step of differentiation that was recorded, along the fields."""
    while step.next_functions and not str(step).startswith("<torch.autograd.function._Lifted"):
        step = step.next_functions[0][0]
    return step


def test_an_input_whose_gradient_is_asked_for_is_lifted_where_that_gradient_is_made(in_kernels):
    torch.manual_seed(2)
    model = FNO(4, 6, 3, layers=2).to(DEVICE)
    exact = FNO(4, 6, 3, layers=2, backend="fft").to(DEVICE).double()
    exact.load_state_dict(model.state_dict())
    x = torch.randn(2, 4, 9, 8, device=DEVICE, requires_grad=True)
    far = x.detach().double().requires_grad_()
    assert not model.layers[0]._lifts_in_kernels(x)
    assert model.layers[0]._lifts_in_kernels(x.detach())
    ours = torch.autograd.grad(model(x).square().sum(), x)
    assert max(errors(ours, torch.autograd.grad(exact(far).square().sum(), far))) < 1e-5
