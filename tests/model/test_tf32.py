"""tf32 without a GPU: products of numbers with 10 bits, that are cut off by a matrix unit, or rounded before.

``pytest -s`` prints what each way is off by: docs/benchmarks.md has it as prediction of what a GPU shows.
"""

import torch
from torch.nn import functional

from fmsci.model import fused
from fmsci.model.layer import FourierLayer

CPU = torch.device("cpu")


def exact(values):
    return values


def cut(values):
    return (values.float().view(torch.int32) & ~0x1FFF).view(torch.float32).double()


def rounded(values):
    return fused.nearest_tf32(values.float()).double()


def layer_in_tf32(z, layer, waves_as, numbers_as):
    """Return a layer's output in the order of the kernels, each product of what the two functions make of its sides."""
    batch, height, _, channels = z.shape
    count = 2 * layer.modes**2
    along_y, along_x = fused.waves(height, z.shape[2], layer.modes, torch.float64, CPU, "tf32")
    v = functional.gelu(z) if layer.activate else z
    of_v = numbers_as(v)
    products = (waves_as(along_x[False][0]) @ of_v).view(batch, 2 * height, -1)
    spectrum = (waves_as(along_y) @ numbers_as(products)).view(batch, 2, count, channels)
    real, imag = numbers_as(spectrum).permute(1, 2, 0, 3)
    w_real, w_imag = numbers_as(layer.spectral.double()).reshape(2, count, channels, channels)
    mixed = torch.stack((real @ w_real - imag @ w_imag, real @ w_imag + imag @ w_real)).permute(2, 0, 1, 3)
    q = (waves_as(along_y.T) @ numbers_as(mixed.reshape(batch, len(along_y), -1))).view(batch, height, -1, channels)
    convolved = waves_as(along_x[True][1]) @ numbers_as(q)
    return convolved + of_v @ numbers_as(layer.pointwise.double()).T + layer.bias.double()


@torch.no_grad()
def test_what_is_cut_off_is_missing_in_the_same_direction_and_rounding_is_not():
    torch.manual_seed(0)
    layers = [FourierLayer(32, 16, "dft", index > 0, "balanced") for index in range(2)]
    z = torch.randn(2, 64, 64, 32, dtype=torch.float64)
    ways = {"all cut off": (cut, cut), "waves rounded": (rounded, cut), "all rounded": (rounded, rounded)}
    outputs = {}
    for name, way in {"exact": (exact, exact), **ways}.items():
        outputs[name] = z
        for layer in layers:
            outputs[name] = layer_in_tf32(outputs[name], layer, *way)
    expected, oracle = outputs.pop("exact"), z
    for layer in layers:
        oracle = layer.double()(oracle)
    assert torch.allclose(expected, oracle, rtol=1e-10)
    error, bias = {}, {}
    for name, found in outputs.items():
        off = found - expected
        error[name] = float(off.norm() / expected.norm())
        bias[name] = float((off * expected).sum() / expected.square().sum())
        print(f"{name}: error {error[name]:.1e}, bias {bias[name]:.1e}")
    assert bias["all cut off"] < -3e-3
    assert abs(bias["all cut off"]) > 0.8 * error["all cut off"]  # nearly all of it
    assert abs(bias["waves rounded"]) < 0.9 * abs(bias["all cut off"])
    assert error["all rounded"] < 0.25 * error["all cut off"]


def test_waves_for_tf32_are_the_nearest_numbers_of_it():
    """10 bits after the first: cut off they would all be smaller, rounded they are as often larger."""
    shape = (97, 89, 24, torch.float32, torch.device("cpu"))
    (along_y, along_x), (exact_y, exact_x) = fused.waves(*shape, "tf32"), fused.waves(*shape, "tf32x3")
    for ours, exact in (
        (along_y, exact_y),
        (along_x[True][0], exact_x[True][0]),
        (along_x[False][1], exact_x[False][1]),
    ):
        assert not (ours.view(torch.int32) & 0x1FFF).any()
        apart = exact.double().abs().unique()[1:-1]  # neither the constant wave nor 0
        off = fused.nearest_tf32(apart.float()).double() / apart - 1
        assert torch.equal(ours, fused.nearest_tf32(exact))
        assert float(off.abs().max()) < 2.0**-11 * 1.001
        assert abs(float(off.mean())) < 3e-5  # cut off: -3.5e-4
        assert not torch.equal(ours, exact)
    special = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0, -1.00048828125])  # the last: half way, and away from 0
    assert fused.nearest_tf32(special).tolist() == [torch.inf, -torch.inf, 0.0, 0.0, -1.0009765625]
