"""The coefficients of SYS-1."""

import numpy as np
import pytest

from fmsci.pde import NAMES, SYSTEMS
from fmsci.pde.system import Draw

POISSON = SYSTEMS["poisson"]


def drawn(count, low, high):
    uniforms = np.random.default_rng(5).random((count, 2))
    return POISSON.draw(Draw(uniforms, low, high, np.zeros((count, 12, 12)), 8, {})).columns.astype(float)


def tensors(columns):
    k11, k22, k12 = columns.T
    return np.stack([np.stack([k11, k12], -1), np.stack([k12, k22], -1)], -2)


@pytest.mark.parametrize(("low", "high"), [(1, 5), (5, 10), (1, 2.5)])
def test_eigenvalues_and_angles_are_uniform(low, high):
    values, vectors = np.linalg.eigh(tensors(drawn(8000, low, high)))
    assert np.allclose(values[:, 0], 0.01, rtol=1e-6)
    ratio = np.sort(values[:, 1] / 0.01)
    assert low * (1 - 1e-6) <= ratio[0]
    assert ratio[-1] <= high * (1 + 1e-6)
    expected = np.linspace(low, high, 8000)
    assert np.abs(ratio - expected).max() < 0.025 * (high - low)
    # the axis of the large eigenvalue, as a direction modulo pi, is uniform too
    angle = np.sort(np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1]) % np.pi)
    assert np.abs(angle - np.linspace(0, np.pi, 8000)).max() < 0.025 * np.pi


def test_columns_stand_for_the_operators_coefficients():
    columns = drawn(3, 1, 5)
    six = columns @ POISSON.expansion
    assert [NAMES[i] for i in np.flatnonzero(POISSON.expansion.any(axis=0))] == ["k11", "k22", "k12"]
    expanded = POISSON.expand(columns)
    for index, name in enumerate(NAMES):
        assert np.array_equal(six[:, index], expanded.or_zero(name))


@pytest.mark.parametrize(("low", "high"), [(1, 5), (0.2, 0.9), (0.5, 2)])
def test_the_observed_ratio_is_the_drawn_one(low, high):
    uniforms = np.random.default_rng(5).random((500, 2))
    wanted = low + (high - low) * uniforms[:, 0]
    assert np.allclose(POISSON.observe(drawn(500, low, high), np.zeros((500, 8, 8))), wanted, rtol=1e-5)


@pytest.mark.parametrize(("low", "high", "says"), [(0, 5, "above 0"), (5, 1, "not be above"), (1, np.inf, "finite")])
def test_ranges_without_meaning_are_refused(low, high, says):
    assert says in POISSON.check_range(low, high, {})
