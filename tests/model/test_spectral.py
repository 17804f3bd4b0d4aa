"""The spectral convolution against the fast Fourier transform, the definition, and the physics of translation."""

import math

import pytest
import torch

from fmsci.errors import UserError
from fmsci.model.layer import FourierLayer
from fmsci.model.spectral import convolve_dft, convolve_fft

GRIDS = [(16, 16, 4), (16, 16, 8), (17, 13, 5), (15, 15, 7), (64, 64, 16), (20, 36, 10), (36, 20, 10), (8, 8, 1)]


def build(height, width, modes, channels=3, dtype=torch.float64):
    torch.manual_seed(height * width + modes)
    weight = torch.randn(2, 2 * modes, modes, channels, channels, dtype=dtype)
    v = torch.randn(2, height, width, channels, dtype=dtype)
    return v, weight


@pytest.mark.parametrize(("height", "width", "modes"), GRIDS)
def test_both_backends_give_one_answer_in_float64(height, width, modes):
    v, weight = build(height, width, modes)
    expected = convolve_fft(v, weight)
    assert torch.allclose(convolve_dft(v, weight), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize(("height", "width", "modes"), GRIDS)
def test_both_backends_give_one_gradient(height, width, modes):
    v, weight = build(height, width, modes)
    probe = torch.randn_like(v)
    gradients = []
    for convolve in (convolve_dft, convolve_fft):
        inputs = (v.clone().requires_grad_(), weight.clone().requires_grad_())
        gradients.append(torch.autograd.grad((convolve(*inputs) * probe).sum(), inputs))
    for ours, oracle in zip(*gradients, strict=True):
        assert torch.allclose(ours, oracle, rtol=0, atol=1e-12 * float(oracle.abs().max()))


def test_single_precision_agrees_to_1e5():
    v, weight = build(64, 64, 16, dtype=torch.float32)
    expected = convolve_fft(v.double(), weight.double())
    for convolve in (convolve_dft, convolve_fft):
        assert float((convolve(v, weight) - expected).norm() / expected.norm()) < 1e-5


def test_gradcheck():
    v, weight = build(7, 6, 3, channels=2)
    assert torch.autograd.gradcheck(convolve_dft, (v[:1].requires_grad_(), weight.requires_grad_()))


@pytest.mark.parametrize(("ky", "kx", "row"), [(0, 0, 0), (2, 1, 2), (0, 3, 0), (-1, 2, 4), (-4, 1, 7), (3, 0, 3)])
def test_one_wave_is_multiplied_by_its_own_complex_number(ky, kx, row):
    """cos(k.x) -> |W| cos(k.x + arg W): the definition, on one wave, with all other weights zero."""
    n, m, real, imag = 16, 4, 0.6, -0.8
    weight = torch.zeros(2, 2 * m, m, 1, 1, dtype=torch.float64)
    weight[:, row, kx, 0, 0] = torch.tensor([real, imag], dtype=torch.float64)
    if kx == 0 and ky != 0:  # the half spectrum holds k and -k of this column: a real operator has conjugate weights
        weight[:, m + ky - 1, kx, 0, 0] = torch.tensor([real, -imag], dtype=torch.float64)
    grid = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    phase = ky * grid[:, None] + kx * grid[None, :]
    expected = real * torch.cos(phase) - imag * torch.sin(phase)
    if kx == 0 and ky == 0:
        expected = torch.full_like(phase, real)
    got = convolve_dft(torch.cos(phase)[None, :, :, None], weight)[0, :, :, 0]
    assert torch.allclose(got, expected, atol=1e-13)


def test_waves_above_the_kept_modes_are_removed():
    n, m = 16, 4
    grid = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    weight = torch.ones(2, 2 * m, m, 1, 1, dtype=torch.float64)
    for field in (torch.cos(4 * grid)[None, :].expand(n, n), torch.cos(5 * grid)[:, None].expand(n, n)):
        assert float(convolve_dft(field[None, :, :, None], weight).abs().max()) < 1e-13


def test_translation_of_the_input_translates_the_output():
    v, weight = build(18, 24, 6)
    moved = convolve_dft(v.roll((5, -7), dims=(1, 2)), weight)
    assert torch.allclose(moved, convolve_dft(v, weight).roll((5, -7), dims=(1, 2)), atol=1e-11)


def test_a_grid_with_too_few_points_is_a_sentence():
    with pytest.raises(UserError, match=r"needs a grid of at least 16 x 16, not 15 x 32; .* with model.modes=7"):
        FourierLayer(2, 8, "dft", activate=False)(torch.zeros(1, 15, 32, 2))
