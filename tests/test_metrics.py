"""Losses and errors of fields, and the error by wavenumber against what waves are."""

import math

import numpy as np
import pytest
import torch

from fmsci.engine.measure import batch_for, measure
from fmsci.library import predict
from fmsci.metrics import LOSSES, error_spectrum, relative_l2, spectrum
from fmsci.train.pictures import by_band
from fmsci.world import World


@pytest.mark.parametrize("shape", [(16, 16), (15, 15), (16, 20), (9, 14)])
def test_the_shells_add_up_to_the_whole(shape):
    generator = torch.Generator().manual_seed(0)
    field, target = torch.randn(2, 3, *shape, generator=generator)
    assert torch.allclose(spectrum(field).sum(1), field.square().sum(dim=(1, 2)), rtol=1e-5)
    error, solution = error_spectrum(field, target).unbind(1)
    assert torch.allclose(error.sum(1), relative_l2(field, target).square(), rtol=1e-5)
    assert torch.allclose(solution.sum(1), torch.ones(3), rtol=1e-5)
    assert 0 < spectrum(field).shape[1] - math.hypot(shape[0] // 2, shape[1] // 2) < 4  # to the corner, hardly farther


def test_the_relative_loss_is_the_square_of_the_error_and_both_count_large_and_small_solutions_alike():
    generator = torch.Generator().manual_seed(0)
    field, target = torch.randn(2, 4, 8, 8, generator=generator)
    scale = torch.tensor([1.0, 1e3, 1e-3, 0.0])[:, None, None]
    error = relative_l2(field, target)
    assert torch.allclose(relative_l2(field * scale, target * scale)[:3], error[:3], rtol=1e-5)
    spectra = error_spectrum(field * scale, target * scale)
    assert torch.allclose(spectra[:3], error_spectrum(field, target)[:3], rtol=1e-4, atol=1e-6)
    found = LOSSES["relative"](field * scale, target * scale)
    assert torch.allclose(found[:3], error[:3].square(), rtol=1e-5)
    assert found[3] == 0
    assert LOSSES["relative"](field, 0 * target)[0] == pytest.approx(float(field[0].square().sum()), rel=1e-6)


@pytest.mark.parametrize(("ky", "kx", "shell"), [(0, 0, 0), (0, 3, 3), (3, 0, 3), (-3, 4, 5), (8, 0, 8), (0, 8, 8)])
def test_a_wave_is_in_the_shell_of_its_number(ky, kx, shell):
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    wave = torch.cos(2 * math.pi * (ky * y + kx * x) / 16)[None].float()
    found = spectrum(wave)[0]
    assert found[shell] == pytest.approx(float(wave.square().sum()), rel=1e-5)
    assert found.sum() == pytest.approx(float(found[shell]), rel=1e-5)


class Noise:
    """Samples whose solution a prediction misses by known waves."""

    def __init__(self):
        from fmsci.dataset.samples import Samples

        generator = torch.Generator().manual_seed(1)
        self._samples = Samples(torch.randn(37, 2, 16, 16, generator=generator), torch.ones(37, 1))

    def __len__(self):
        return 37

    def gather(self, indices, pin=False):
        from fmsci.dataset.samples import Samples

        chosen = torch.from_numpy(np.asarray(indices))
        return Samples(self._samples.fields[chosen], self._samples.coefficients[chosen])


def test_a_split_has_the_mean_spectrum_of_its_samples_and_two_bands():
    samples, cpu = Noise(), torch.device("cpu")

    def predict(source, coefficients):
        return source

    found = measure(predict, samples, World(), cpu, batch_size=8, spectra=True)
    whole = samples.gather(np.arange(37))
    expected = error_spectrum(whole.source, whole.solution).double().mean(0).numpy()
    assert found.spectrum == pytest.approx(expected, rel=1e-5)
    bands = by_band(found.spectrum, 4)
    mean_square = float(relative_l2(whole.source, whole.solution).double().square().mean())
    assert bands["kept"] ** 2 + bands["beyond"] ** 2 == pytest.approx(mean_square, rel=1e-5)
    assert bands["kept"] ** 2 == pytest.approx(expected[0][:4].sum(), rel=1e-5)
    assert measure(predict, samples, World(), cpu).spectrum is None


def test_of_a_solution_of_zero_the_error_is_the_prediction_itself_everywhere():
    """evaluate, predict and the spectra agree, and nothing is infinite."""
    zero, u = torch.zeros(2, 8, 8), torch.stack((torch.ones(8, 8), torch.zeros(8, 8)))
    assert relative_l2(u, zero).tolist() == [8.0, 0.0]
    assert predict._relative_l2(u.numpy(), zero.numpy()).tolist() == [8.0, 0.0]
    error, solution = error_spectrum(u, zero).unbind(1)
    assert error.sum(1).tolist() == pytest.approx([64.0, 0.0])
    assert solution.sum(1).tolist() == [0.0, 0.0]


def test_on_a_large_grid_fewer_samples_are_measured_at_once():
    """Whoever trains there in small pieces has no room for 32."""
    grids = {128: 32, 512: 16, 1024: 4, 8192: 1}
    assert {grid: batch_for(128, grid) for grid in grids} == grids
    assert batch_for(16, 64) == 32
