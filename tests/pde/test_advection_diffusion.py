"""SYS-2: the ratio of every sample is the one that was drawn."""

import numpy as np
import pytest

from fmsci.pde import SYSTEMS, solve, sources
from fmsci.pde.advection_diffusion import drawn_ratio, solve_for_ratio
from fmsci.pde.system import Draw

SYSTEM = SYSTEMS["advection_diffusion"]


def drawn(count, low, high, n):
    rng = np.random.default_rng(11)
    amplitudes = sources.build_amplitudes(rng.random((count, sources.NUM_UNIFORMS)))
    uniforms = rng.random((count, 4))
    return amplitudes, uniforms, SYSTEM.draw(Draw(uniforms, low, high, amplitudes, n, {}))


def fields(amplitudes, n):
    builder = sources.SourceBuilder(n, keep_mean=False)
    made = []
    for a in amplitudes:
        builder.build(a)
        made.append(builder.field.copy())
    return np.stack(made)


def derivative(u, axis):
    """Return the spectral first derivative of real fields (B, n, n) along an axis."""
    n = u.shape[axis]
    k = np.fft.fftfreq(n, 1 / n)
    if n % 2 == 0:
        k[n // 2] = 0
    shape = [1, 1, 1]
    shape[axis] = n
    return np.fft.ifft(2j * np.pi * k.reshape(shape) * np.fft.fft(u, axis=axis), axis=axis).real


@pytest.mark.parametrize(("low", "high"), [(0.2, 1), (0.2, 0.4), (1, 2), (2, 5)])
@pytest.mark.parametrize("n", [32, 65, 128])
def test_the_ratio_of_the_solution_is_the_drawn_one(low, high, n):
    """Measured from u itself, in real space, by derivatives that know nothing of symbols and bands."""
    amplitudes, uniforms, made = drawn(12, low, high, n)
    wanted = drawn_ratio(uniforms, low, high)
    f = fields(amplitudes, n)
    u = solve(SYSTEM, f, made.columns)
    v1, v2 = made.columns.astype(float).T[3:, :, None, None]
    ux, uy = derivative(u, 2), derivative(u, 1)
    advection = v1 * ux + v2 * uy
    diffusion = -(f - advection)  # as the pair solves the equation; derivatives of ux miss the Nyquist wavenumber
    ratio = np.linalg.norm(advection, axis=(1, 2)) / np.linalg.norm(diffusion, axis=(1, 2))
    assert np.abs(ratio / wanted - 1).max() < 1e-6
    assert np.abs(made.figures["psi"] / wanted - 1).max() < 1e-6
    assert np.abs(SYSTEM.observe(made.columns.astype(float), f) / wanted - 1).max() < 1e-6


def test_columns_are_weighted_parts_of_k_and_v():
    _, _, made = drawn(2000, 0.2, 1, 32)
    k11, k22, k12, v1, v2 = made.columns.astype(float).T
    weight = np.hypot(v1, v2)  # l
    assert np.all((weight > 0) & (weight < 1))
    values = (
        np.linalg.eigvalsh(np.stack([np.stack([k11, k12], -1), np.stack([k12, k22], -1)], -2)) / (1 - weight)[:, None]
    )
    assert np.allclose(values[:, 0], 0.01, rtol=1e-4)
    for quantity, low, high in (
        (values[:, 1] / 0.01, 1, 5),
        (np.arctan2(2 * k12, k11 - k22) % (2 * np.pi), 0, 2 * np.pi),  # twice the angle of K's large axis
        (np.arctan2(v2, v1) % (2 * np.pi), 0, 2 * np.pi),
        (made.figures["psi"], 0.2, 1),
    ):
        ordered = np.sort(quantity)
        assert low - 1e-3 <= ordered[0]
        assert ordered[-1] <= high + 1e-3
        assert np.abs(ordered - np.linspace(low, high, 2000)).max() < 0.045 * (high - low)


def test_a_sample_does_not_depend_on_its_neighbours():
    amplitudes, uniforms, made = drawn(9, 2, 5, 32)
    for at in range(9):
        one = slice(at, at + 1)
        alone = SYSTEM.draw(Draw(uniforms[one], 2, 5, amplitudes[one], 32, {}))
        assert np.array_equal(alone.columns, made.columns[one])
        assert np.array_equal(alone.figures["psi"], made.figures["psi"][one])


def test_a_ratio_that_cannot_be_reached_is_an_error():
    energy, slope = np.array([[1.0, 1.0]]), np.array([[0.0, 1.0]])  # half of the energy is not advected at all
    assert solve_for_ratio(energy, slope, np.array([0.5]))[0] > 0
    with pytest.raises(ArithmeticError, match="no advection in this direction"):
        solve_for_ratio(energy, slope, np.array([1.5]))
