"""SYS-3: the wavenumber's distribution, as it is drawn."""

import numpy as np
import pytest

from fmsci.pde import SYSTEMS, solve
from fmsci.pde.grid import points
from fmsci.pde.system import Draw

SYSTEM = SYSTEMS["helmholtz"]
CONTINUOUS = {"w": "continuous", "redraw": "all"}
INTEGER = {"w": "integer", "redraw": "all"}


def drawn(count, low, high, options):
    uniforms = np.random.default_rng(2).random((count, 1))
    return SYSTEM.draw(Draw(uniforms, low, high, np.zeros((count, 12, 12)), 8, options)).columns


@pytest.mark.parametrize(("low", "high"), [(1.0, 10.0), (5.0, 10.0), (3.0, 3.0)])
def test_whole_numbers_come_equally_often(low, high):
    columns = drawn(9000, low, high, INTEGER)
    assert np.all(columns[:, 0] == np.float32(0.01))
    values, counts = np.unique(columns[:, 1], return_counts=True)
    assert values.tolist() == list(range(int(low), int(high) + 1))
    expected = 9000 / len(values)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_continuous_w_is_uniform():
    w = np.sort(drawn(9000, 1.0, 2.5, CONTINUOUS)[:, 1])
    assert np.abs(w - np.linspace(1, 2.5, 9000)).max() < 0.03


def test_the_sign_of_w():
    """-0.01 lap u - w u = f: for f = cos(2 pi x), u = f / (0.01 (2 pi)^2 - w)."""
    x = np.meshgrid(points(16), points(16))[0]
    f = np.cos(2 * np.pi * x)
    assert np.allclose(solve("helmholtz", f, {"k11": 0.01, "w": 3.0}), f / (0.01 * 4 * np.pi**2 - 3), atol=1e-14)


def test_the_mean_stays():
    u = solve("helmholtz", np.ones((8, 8)), {"k11": 0.01, "w": 4.0})
    assert np.allclose(u, -0.25)


@pytest.mark.parametrize(
    ("low", "high", "options", "says"),
    [
        (1.0, 2.5, INTEGER, "options.w=continuous"),
        (-1.0, 2.0, INTEGER, "at least 0"),
        (0.0, 5000.0, INTEGER, "at most 1000 wide"),
    ],
)
def test_ranges_without_meaning_are_refused(low, high, options, says):
    assert says in SYSTEM.check_range(low, high, options)
    assert SYSTEM.check_range(1.0, 2.5, CONTINUOUS) is None
