"""On a GPU: both forms of the layer give one answer in each precision, with gradients, and the CPU's own."""

import pytest
import torch

from fmsci.engine.replay import Replayed
from fmsci.model.fno import FNO
from fmsci.model.operator import Scales, SolutionOperator
from fmsci.model.sizes import architecture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU on this machine"),
]


def value_and_gradients(backend, device, dtype=torch.float64, autocast=None, width=16, modes=6, grid=(40, 33)):
    torch.manual_seed(1)
    model = FNO(3, width, modes, layers=3, backend=backend).to(device, dtype)
    x = torch.randn(4, 3, *grid, dtype=torch.float64).to(device, dtype)
    with torch.autocast("cuda", autocast or torch.bfloat16, enabled=autocast is not None):
        u = model(x)
    return [
        u.detach(),
        *torch.autograd.grad(u.float().square().sum() if autocast else u.square().sum(), [*model.parameters()]),
    ]


@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [(torch.float64, None, 1e-12), (torch.float32, None, 1e-5), (torch.float32, torch.bfloat16, 4e-2)],
)
def test_both_forms_agree_with_the_cpu_in_float64(dtype, autocast, tolerance):
    oracle = value_and_gradients("fft", "cpu")
    for backend in ("dft", "fft"):
        for ours, other in zip(value_and_gradients(backend, "cuda", dtype, autocast), oracle, strict=True):
            error = (ours.cpu().double() - other).norm() / other.norm()
            assert float(error) < tolerance


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_the_widest_layer_agrees_too(autocast):
    """The 256M model's, in all its tiles."""
    shape = {"width": 128, "modes": 32, "grid": (64, 72)}
    oracle = value_and_gradients("fft", "cuda", **shape)
    for ours, other in zip(value_and_gradients("dft", "cuda", torch.float32, autocast, **shape), oracle, strict=True):
        assert float((ours.double() - other).norm() / other.norm()) < (4e-2 if autocast else 1e-5)


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


def test_replayed_steps_train_as_the_others_do():
    """One shape is recorded, another one comes between, and validation without gradients."""
    curves = []
    for wrap in (Replayed, lambda module: module):
        torch.manual_seed(1)
        scales = Scales(1.0, {"k11": 1.0, "k22": 1.0, "k12": 1.0})
        operator = SolutionOperator(architecture(4, "64K"), scales).cuda()
        module, optimizer = wrap(operator), torch.optim.Adam(operator.parameters(), 1e-3, fused=True)
        losses = []
        for index in range(12):
            count = 3 if index % 4 == 3 else 8
            f, k, u = torch.randn(count, 32, 32), torch.rand(count, 3), torch.randn(count, 32, 32)
            loss = (module(f.cuda(), k.cuda()) - u.cuda()).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                losses.append((float(loss), float(module(f.cuda(), k.cuda()).square().mean())))
        curves.append(torch.tensor(losses))
    assert torch.allclose(*curves, rtol=1e-5)
