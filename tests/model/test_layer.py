"""The fused Fourier layer and head against plain operations: values, gradients, memory; compiled and exported."""

import gc
import itertools
import runpy
import shutil
import weakref

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fmsci.model import mixing, pieces
from fmsci.model import transform as transform_module
from fmsci.model.fno import FNO, Lift
from fmsci.model.head import Head
from fmsci.model.layer import FourierLayer
from fmsci.model.sizes import SIZES, Architecture

GRIDS = [
    (16, 12, 4),
    (16, 16, 8),
    (15, 18, 5),
    (32, 18, 6),
    (8, 8, 1),
    (17, 13, 6),
    (17, 16, 6),
    (16, 17, 6),
    (6, 40, 3),
]


def layer(modes, activate, width=3):
    torch.manual_seed(modes)
    made = FourierLayer(width, modes, "dft", activate).double()
    made.spectral.data.normal_()
    return made


def in_pieces(monkeypatch, cache_bytes):
    """Let a piece of anything be so large; with small ones weights are copied as those of wide layers are."""
    monkeypatch.setattr(pieces, "CACHE_BYTES", cache_bytes)
    monkeypatch.setattr(pieces, "SHARED_BYTES", cache_bytes)
    monkeypatch.setattr(mixing, "COPIED_FROM", 1 if cache_bytes < 1 << 20 else 128)


def value_and_gradients(function, inputs, probe):
    out = function()
    return out.detach(), *torch.autograd.grad((out * probe).sum(), inputs)


@pytest.mark.parametrize("cache_bytes", [1, 3000, 1 << 20])
@pytest.mark.parametrize("halved_from", [1, 1000])
@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize(("height", "width", "modes"), GRIDS)
def test_the_fused_layer_is_the_plain_one(monkeypatch, height, width, modes, activate, halved_from, cache_bytes):
    """In float64 to 1e-12, a row at a time, some or all, with whole and with halved sums; gradients too."""
    in_pieces(monkeypatch, cache_bytes)
    monkeypatch.setattr(transform_module, "HALVED_FROM", halved_from)
    transform_module.transform.cache_clear()
    made = layer(modes, activate)
    z = torch.randn(3, height, width, 3, dtype=torch.float64, requires_grad=True)
    probe, inputs = torch.randn_like(z), [z, *made.parameters()]
    fused = value_and_gradients(lambda: made(z), inputs, probe)
    made.backend = "fft"
    plain = value_and_gradients(lambda: made(z), inputs, probe)
    transform_module.transform.cache_clear()
    for ours, oracle in zip(fused, plain, strict=True):
        assert torch.allclose(ours, oracle, rtol=0, atol=1e-12 * float(oracle.abs().max()))


@pytest.mark.parametrize("cache_bytes", [1, 3000, 1 << 20])
@pytest.mark.parametrize("halved_from", [1, 1000])
@pytest.mark.parametrize(("height", "width", "modes"), GRIDS)
def test_the_first_layer_with_the_lift_in_it_is_the_plain_one(
    monkeypatch, height, width, modes, halved_from, cache_bytes
):
    """Against the lifted field and the fast transform, in float64 to 1e-12; the gradient of the input too."""
    in_pieces(monkeypatch, cache_bytes)
    monkeypatch.setattr(transform_module, "HALVED_FROM", halved_from)
    transform_module.transform.cache_clear()
    torch.manual_seed(modes)
    lift, made = Lift(4, 3).double(), layer(modes, activate=False)
    x = torch.randn(3, 4, height, width, dtype=torch.float64, requires_grad=True)
    assert made.takes_lift(x)
    probe = torch.randn(3, height, width, 3, dtype=torch.float64)
    inputs = [x, *lift.parameters(), *made.parameters()]
    joined = value_and_gradients(lambda: made(*lift(x, parts=True)), inputs, probe)
    made.backend = "fft"
    assert not made.takes_lift(x)
    plain = value_and_gradients(lambda: made(lift(x)), inputs, probe)
    transform_module.transform.cache_clear()
    for ours, oracle in zip(joined, plain, strict=True):
        assert torch.allclose(ours, oracle, rtol=0, atol=1e-12 * float(oracle.abs().max()))


def test_what_a_layer_gives_may_be_changed_in_place():
    """As a hook may do; its gradient is then that of what it was changed to."""
    model, x = FNO(4, 4, 3), torch.randn(2, 4, 8, 8)
    expected = torch.autograd.grad(model(x).square().sum(), model.head.inner)
    for one in (*model.layers, model.head):
        one.register_forward_hook(lambda module, given, out: out.add_(1).sub_(1))
    found = torch.autograd.grad(model(x).square().sum(), model.head.inner)
    assert torch.allclose(*expected, *found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("width", "modes"), [(16, 16), (160, 8)])
def test_off_the_cpu_all_is_one_piece(width, modes):
    """What starts kernels one by one must not start one for each row or wavenumber; counted without numbers."""

    class Count(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            Count.seen += 1
            return function(*args, **(kwargs or {}))

    with torch.device("meta"):
        model, x = FNO(4, width, modes), torch.empty(2, 4, 64, 64)
    with Count():
        model(x).sum().backward()
    assert Count.seen < 1500


def test_gradcheck():
    made = layer(3, activate=True, width=2)
    z = torch.randn(2, 7, 6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, *_: made(z), (z, *made.parameters()))
    lift, first = Lift(3, 2).double(), layer(3, activate=False, width=2)
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    given = (x, *lift.parameters(), *first.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: first(*lift(x, parts=True)), given)
    top = Head(2).double()
    assert torch.autograd.gradcheck(lambda z, *_: top(z), (z, *top.parameters()))


@pytest.mark.parametrize("samples_first", [True, False])
@pytest.mark.parametrize("cache_bytes", [1, 3000, 1 << 20])
def test_the_fused_head_is_the_plain_one(monkeypatch, cache_bytes, samples_first):
    """Of fields as they lie after either form of a layer."""
    in_pieces(monkeypatch, cache_bytes)
    torch.manual_seed(0)
    top = Head(5).double()
    v = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    v = (v if samples_first else pieces.samples_first(pieces.points_first(v))).requires_grad_()
    assert v.is_contiguous() == samples_first
    probe, inputs = torch.randn(2, 6, 7, 1, dtype=torch.float64), [v, *top.parameters()]
    fused = value_and_gradients(lambda: top(v), inputs, probe)

    def plain():
        inner = functional.gelu(functional.linear(v, top.inner, top.inner_bias))
        return functional.linear(inner, top.outer, top.outer_bias)

    for ours, oracle in zip(fused, value_and_gradients(plain, inputs, probe), strict=True):
        assert torch.allclose(ours, oracle, rtol=0, atol=1e-12 * float(oracle.abs().max()))


def relative(ours, oracle):
    return float((ours.detach().double() - oracle.detach()).norm() / oracle.detach().norm())


@pytest.mark.parametrize(("cache_bytes", "halved_from"), [(1 << 11, 12), (1 << 20, 12), (1 << 20, 1000)])
def test_single_precision_agrees_to_1e5_and_bfloat16_to_2_percent(monkeypatch, cache_bytes, halved_from):
    """In many pieces too: what is added up over them is not added up in bfloat16. With halved sums and whole ones."""
    in_pieces(monkeypatch, cache_bytes)
    monkeypatch.setattr(transform_module, "HALVED_FROM", halved_from)
    transform_module.transform.cache_clear()
    torch.manual_seed(0)
    model, x = FNO(4, 16, 12), torch.randn(2, 4, 32, 32)
    oracle = FNO(4, 16, 12, backend="fft").double()
    oracle.load_state_dict(model.state_dict())
    exact = oracle(x.double())
    gradients = torch.autograd.grad(exact.square().sum(), list(oracle.parameters()))
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            u = model(x)
        assert u.dtype == torch.float32  # the last product of the head
        assert relative(u, exact) < bound
        found = torch.autograd.grad(u.square().sum(), list(model.parameters()))
        for ours, expected in zip(found, gradients, strict=True):
            assert ours.dtype == torch.float32
            assert relative(ours, expected) < 2 * bound


def test_no_complex_tensor_is_made(monkeypatch):
    class Watch(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for one in out if isinstance(out, (tuple, list)) else (out,):
                assert not (isinstance(one, torch.Tensor) and one.is_complex()), function
            self.seen += 1
            return out

    model, x = FNO(4, 6, 4), torch.randn(2, 4, 12, 12)
    with Watch() as watch:
        model(x).square().sum().backward()
    assert watch.seen > 50


@pytest.mark.parametrize("size", SIZES)
def test_the_flops_of_a_forward_pass_are_what_a_counter_counts(size):
    width, modes = SIZES[size]
    grid = max(2 * modes, 16)
    with torch.device("meta"):
        model, x = FNO(4, width, modes), torch.empty(1, 4, grid, grid)
    for one in model.layers:
        one.forward = lambda z, one=one: one._composed(z, one.spectral, one.pointwise, one.bias)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(x)
    assert counter.get_total_flops() == Architecture(4, width, modes).flops(grid, grid)


class PiecesOfFields(TorchDispatchMode):
    """Notes, for each tensor of so many numbers, which pieces of it operations take, in their order."""

    def __init__(self, numbers):
        self.numbers, self.kept, self.taken = numbers, [], {}
        super().__init__()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        for one in (*arguments, *(keywords or {}).values()):
            if isinstance(one, torch.Tensor) and one.untyped_storage().nbytes() == 4 * self.numbers > 4 * one.numel():
                self.kept.append(one)  # or another field comes to lie there
                span = sum((size - 1) * stride for size, stride in zip(one.shape, one.stride(), strict=True))
                first = one.storage_offset()
                self.taken.setdefault(one.untyped_storage().data_ptr(), []).append((first, first + span))
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize(
    ("known", "modes"), [({"amx_tile": True}, 64), ({"amx_tile": False}, 16), ({}, 16), (None, 16)]
)
def test_cores_with_matrix_tiles_halve_later(monkeypatch, known, modes):
    """Their products are faster beside their memory; a torch that does not tell what a core has (None) serves too."""
    if known is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert runpy.run_path(transform_module.__file__, run_name=transform_module.__name__)["HALVED_FROM"] == modes


@pytest.mark.parametrize("halved_from", [1, 1000])
def test_what_was_touched_last_of_a_field_is_touched_next(monkeypatch, halved_from):
    """Each pass over a field goes the other way than the one before: it begins with what a cache may still hold."""
    monkeypatch.setattr(pieces, "CACHE_BYTES", 2 * 12 * 3 * 8 * 4)  # two rows of a field
    monkeypatch.setattr(transform_module, "HALVED_FROM", halved_from)
    transform_module.transform.cache_clear()
    model, numbers = FNO(4, 8, 4), 3 * 16 * 12 * 8
    with PiecesOfFields(numbers) as noted:
        model(torch.randn(3, 4, 16, 12)).square().sum().backward()
    transform_module.transform.cache_clear()
    assert len(noted.taken) == 4 + 4  # the fields, and the gradient of each
    row = numbers // 16
    for ranges in noted.taken.values():
        assert min(ranges)[0] == 0
        assert max(end for _, end in ranges) == numbers - 1
        for (first, end), (next_first, next_end) in itertools.pairwise(ranges):
            assert next_first - row < end
            assert first - row < next_end


def test_a_training_step_keeps_one_field_a_layer_and_its_spectrum():
    """Saved between forward and backward; the input channels are the caller's own."""
    model, x = FNO(4, 16, 8), torch.randn(3, 4, 32, 32)
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.lift.register_forward_hook(lambda module, given, out: out_of_lift.extend(out))
    out_of_lift = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *out_of_lift)}  # its own weights and x
    kept = sum(size for place, size in saved.items() if place not in own)
    assert kept == 3 * model.architecture.saved_bytes(32, 32, joined=True)


def test_where_the_lift_is_the_first_layers():
    """In products: on a CPU always, on a GPU up to 128 channels. It saves a field, and d - c channels of a spectrum."""
    assert Architecture(4, 128, 32).joins_lift()
    assert not Architecture(4, 129, 32).joins_lift()
    assert not Architecture(129, 16, 4).joins_lift()
    assert Architecture(4, 129, 32).joins_lift(cpu=True)
    assert not Architecture(4, 16, 4).joins_lift("fft", cpu=True)
    shape = Architecture(4, 16, 4)
    assert shape.saved_bytes(32, 24) - shape.saved_bytes(32, 24, joined=True) == 4 * (32 * 24 * 16 + 4 * 16 * 12)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, there is no g++ here")
@pytest.mark.filterwarnings("ignore:.*jit.script:DeprecationWarning")  # torch's own
def test_it_compiles_in_one_graph():
    torch.manual_seed(0)
    model, x = FNO(3, 4, 3, layers=2), torch.randn(2, 3, 8, 8)
    compiled = torch.compile(model, fullgraph=True)
    assert torch.allclose(compiled(x), model(x), atol=1e-5)
    model(x).square().sum().backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    compiled(x).square().sum().backward()
    theirs = [p.grad for p in model.parameters()]
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * float(a.abs().max()))


def test_it_is_exported_and_runs_without_this_code(tmp_path):
    torch.manual_seed(0)
    model, x = FNO(3, 4, 3, layers=2), torch.randn(2, 3, 8, 8)
    program = torch.export.export(model, (x,))
    assert torch.allclose(program.module()(x), model(x), atol=1e-5)
    assert not complex_numbers(program)
    assert complex_numbers(torch.export.export(FNO(3, 4, 3, layers=2, backend="fft"), (x,)))


def complex_numbers(program):
    """Return the operations of an exported program that give complex numbers, in its inner graphs too."""
    graphs = [one.graph for one in program.graph_module.modules() if isinstance(one, torch.fx.GraphModule)]
    values = [(node, node.meta.get("val")) for graph in graphs for node in graph.nodes]
    return [node for node, value in values if isinstance(value, torch.Tensor) and value.is_complex()]


@pytest.mark.parametrize(("recompute", "fields_kept"), [(0, 4), (1, 4), (2, 2), (3, 2), (4, 1)])
def test_recomputing_keeps_fewer_fields_and_gives_the_same_gradients(recompute, fields_kept):
    """Alive after a forward pass: the input of every so many layers but the first and that of the head."""
    x = torch.randn(2, 4, 16, 16)
    torch.manual_seed(5)
    whole = FNO(4, 6, 3)
    model = FNO(4, 6, 3, recompute=recompute)
    model.load_state_dict(whole.state_dict())
    made = []
    for part in model.layers:
        part.register_forward_hook(lambda module, given, out: made.append(weakref.ref(out.untyped_storage())))
    u = model(x)
    gc.collect()
    assert sum(one() is not None for one in made) == fields_kept
    field = 4 * 16 * 16 * 6
    assert model.architecture.saved_bytes(16, 16, recompute, joined=True) // field == fields_kept
    assert model.architecture.saved_bytes(16, 16, recompute) // field == fields_kept + 1
    ours = torch.autograd.grad(u.square().sum(), list(model.parameters()))
    for one, other in zip(ours, torch.autograd.grad(whole(x).square().sum(), list(whole.parameters())), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("width", "modes", "form"), [(16, 4, "dft"), (16, 256, "dft"), (128, 32, "dft"), (16, 257, "fft"), (8, 17, "fft")]
)
def test_the_faster_form_of_the_transform_is_chosen(width, modes, form):
    assert Architecture(4, width, modes).transform == form
    with torch.device("meta"):
        assert FNO(4, width, modes, layers=1).layers[0].backend == form


def test_balanced_weights_keep_the_energy_of_what_is_kept():
    """The paper's start as a field of nearly nothing; balanced ones give a kept wave back with its energy."""
    torch.manual_seed(3)
    energies = {}
    for initial in ("paper", "balanced"):
        made = FourierLayer(64, 4, "dft", activate=False, initial=initial)
        made.pointwise.data.zero_()
        made.bias.data.zero_()
        spectrum = torch.zeros(64, 16, 9, dtype=torch.complex64)
        spectrum[:, 1:4, 1:4] = torch.randn(64, 3, 3, dtype=torch.complex64)
        v = torch.fft.irfft2(spectrum).movedim(0, -1)[None]
        with torch.no_grad():
            energies[initial] = float(made(v).square().sum() / v.square().sum())
    assert energies["balanced"] == pytest.approx(1, rel=0.25)
    assert energies["paper"] < 0.01
