"""On a GPU: both forms of the layer give one answer in each precision, with gradients, and the CPU's own."""

from contextlib import contextmanager

import pytest
import torch

from fmsci.model.fno import FNO

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU on this machine"),
]


TOLERANCES = {"fp64": 1e-12, "fp32": 1e-5, "tf32": 2e-2, "bf16": 4e-2}
"""Relative L2 error of the output, and of the gradient of each parameter, against float64."""

OF_WIDEST = {"fp32": 2e-5, "tf32": 5e-2, "bf16": 4e-2}
"""The same for the widest layer: three of 128 channels, on noise."""

WIDEST = {"width": 128, "modes": 32, "grid": (64, 72)}
"""The 256M model's layer, in all its tiles."""


@contextmanager
def computing_in(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def value_and_gradients(backend, device, precision="fp64", width=16, modes=6, grid=(40, 33)):
    torch.manual_seed(1)
    dtype = torch.float64 if precision == "fp64" else torch.float32
    model = FNO(3, width, modes, layers=3, backend=backend, initial="balanced").to(device, dtype)
    x = torch.randn(4, 3, *grid, dtype=torch.float64).to(device, dtype)
    with computing_in(precision):
        u = model(x)
        loss = (u.float() if precision == "bf16" else u).square().sum()
        return [u.detach(), *torch.autograd.grad(loss, [*model.parameters()])]


@pytest.mark.parametrize("precision", TOLERANCES)
def test_both_forms_agree_with_the_cpu_in_float64(precision):
    oracle = value_and_gradients("fft", "cpu")
    for backend in ("dft", "fft"):
        for ours, other in zip(value_and_gradients(backend, "cuda", precision), oracle, strict=True):
            error = (ours.cpu().double() - other).norm() / other.norm()
            assert float(error) < TOLERANCES[precision]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_widest_layer_agrees_too_and_how_far_it_is_off_on_average(precision):
    """Printed: error, and bias <ours, exact> / <exact, exact> - 1, which rounding does not have and cutting off has."""
    oracle = value_and_gradients("fft", "cuda", **WIDEST)
    found = {"error": [], "bias": []}
    for ours, other in zip(value_and_gradients("dft", "cuda", precision, **WIDEST), oracle, strict=True):
        off = ours.double() - other
        found["error"].append(float(off.norm() / other.norm()))
        found["bias"].append(float((off * other).sum() / other.square().sum()))
    for what, values in found.items():
        ends = f"output {values[0]:.1e}, gradients {min(values[1:]):.1e} to {max(values[1:]):.1e}"
        print(f"{precision}: {what} of {ends}")
    assert max(found["error"]) < OF_WIDEST[precision]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gradient_of_the_input_is_made_where_it_is_asked_for(precision):
    """The lift is then a step of its own; else the first layer does it, and keeps no lifted field."""
    torch.manual_seed(1)
    model, x = FNO(3, 16, 6, layers=2, initial="balanced").cuda(), torch.randn(2, 3, 40, 33, device="cuda")
    exact = FNO(3, 16, 6, layers=2, backend="fft").cuda().double()
    exact.load_state_dict(model.state_dict())
    with computing_in(precision):
        assert model.layers[0].takes_lift(x)
        assert not model.layers[0].takes_lift(x.requires_grad_())
        (ours,) = torch.autograd.grad(model(x).float().square().sum(), x)
    far = x.detach().double().requires_grad_()
    (other,) = torch.autograd.grad(exact(far).square().sum(), far)
    assert float((ours - other).norm() / other.norm()) < TOLERANCES[precision]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU: every device is the current one")
def test_a_model_computes_where_it_lies_whichever_gpu_is_the_current_one():
    first, second = (value_and_gradients("dft", f"cuda:{index}", "fp32") for index in (0, 1))
    assert all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(first, second, strict=True))


def test_a_step_is_captured_in_a_cuda_graph():
    """No step of the model waits for the device or allocates outside torch: the small sizes may be replayed."""
    torch.manual_seed(1)
    model = FNO(3, 16, 4).cuda()
    x = torch.randn(2, 3, 32, 32, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(x).square().sum().backward()
            model.zero_grad()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x).square().sum().backward()
    x.copy_(torch.randn_like(x))
    graph.replay()
    replayed = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(x).square().sum().backward()
    for ours, other in zip(replayed, model.parameters(), strict=True):
        assert torch.allclose(ours, other.grad, rtol=1e-4, atol=1e-5)
