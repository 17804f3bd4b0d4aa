"""The spectral solver against truths that know nothing of it: manufactured solutions and dense finite differences."""

import numpy as np
import pytest

from fmsci.pde import solve
from fmsci.pde.grid import forward, mean_square, points
from fmsci.pde.operator import Coefficients, Solver, build_symbols, solve_field

RNG_SEED = 3


def manufactured(c, ny, nx, waves):
    """Return u = sum of a cos(2 pi (p x + q y) + s) and f = L u, by calculus."""
    x, y = np.meshgrid(points(nx), points(ny))
    u, f = np.zeros((ny, nx)), np.zeros((ny, nx))
    for a, p, q, s in waves:
        phase = 2 * np.pi * (p * x + q * y) + s
        quadratic = 4 * np.pi**2 * (c["k11"] * p * p + c["k22"] * q * q + 2 * c["k12"] * p * q)
        u += a * np.cos(phase)
        f += a * ((quadratic - c["w"]) * np.cos(phase) - 2 * np.pi * (c["v1"] * p + c["v2"] * q) * np.sin(phase))
    return u, f


def as_batch(c):
    return Coefficients(**{name: np.array([value]) for name, value in c.items()})


@pytest.mark.parametrize(("ny", "nx"), [(16, 16), (17, 17), (16, 24), (31, 20)])
def test_manufactured_solutions(ny, nx):
    rng = np.random.default_rng(RNG_SEED)
    c = {"k11": 0.013, "k22": 0.041, "k12": -0.009, "v1": 0.3, "v2": -0.2, "w": 0.7}
    waves = [(rng.normal(), p, q, rng.uniform(0, 6)) for p in range(-6, 7) for q in range(-6, 7) if (p, q) != (0, 0)]
    u, f = manufactured(c, ny, nx, waves)
    assert np.abs(solve_field(as_batch(c), f[None])[0] - u).max() <= 1e-10 * np.abs(u).max()


@pytest.mark.parametrize("absent", [("v1",), ("v2",), ("k12",), ("w",), ("v1", "v2"), ("k12", "v1", "w")])
def test_a_coefficient_that_is_absent_is_zero(absent):
    c = {"k11": 0.013, "k22": 0.041, "k12": -0.009, "v1": 0.3, "v2": -0.2, "w": 0.7} | dict.fromkeys(absent, 0.0)
    u, f = manufactured(c, 16, 20, [(1.0, 3, -2, 0.4), (0.5, 0, 4, 0.0), (2.0, 1, 5, 1.0)])
    given = as_batch({name: value for name, value in c.items() if name not in absent})
    assert np.abs(solve_field(given, f[None])[0] - u).max() <= 1e-10


def test_poisson_manufactured_through_the_front_door():
    c = {"k11": 0.02, "k22": 0.03, "k12": 0.005, "v1": 0.0, "v2": 0.0, "w": 0.0}
    u, f = manufactured(c, 32, 32, [(1.0, 3, -2, 0.4), (0.5, 0, 7, 0.0), (2.0, 11, 5, 1.0)])
    given = {name: c[name] for name in ("k11", "k22", "k12")}
    assert np.abs(solve("poisson", f, given) - u).max() <= 1e-10
    assert np.abs(solve("poisson", f[None], [[0.02, 0.03, 0.005]])[0] - u).max() <= 1e-10
    assert np.abs(solve("poisson", f + 5.0, given) - u).max() <= 1e-10  # the mean of f is removed


def dense_finite_differences(c, n):
    """Return the n^2 x n^2 matrix of L with second-order central differences, periodic."""
    shift = np.roll(np.eye(n), 1, axis=1)  # shift @ u is u(x + h)
    eye, h = np.eye(n), 1 / n
    first, second = (shift - shift.T) / (2 * h), (shift - 2 * eye + shift.T) / h**2
    dxx, dyy, dxy = np.kron(eye, second), np.kron(second, eye), np.kron(first, first)
    diffusion = c["k11"] * dxx + c["k22"] * dyy + 2 * c["k12"] * dxy
    advection = c["v1"] * np.kron(eye, first) + c["v2"] * np.kron(first, eye)
    return -diffusion + advection - c["w"] * np.eye(n * n)


@pytest.mark.parametrize(
    "c",
    [
        {"k11": 0.01, "k22": 0.03, "k12": 0.006, "v1": 0.0, "v2": 0.0, "w": 0.0},
        {"k11": 0.02, "k22": 0.01, "k12": -0.004, "v1": 0.3, "v2": 0.1, "w": 0.0},
        {"k11": 0.01, "k22": 0.01, "k12": 0.0, "v1": 0.0, "v2": 0.0, "w": 1.2},
    ],
)
def test_dense_finite_differences_converge_to_it_at_second_order(c):
    """An independent discretisation of the same equation: the difference falls fourfold when h is halved."""
    differences = []
    for n in (16, 32):
        x, y = np.meshgrid(points(n), points(n))
        f = np.exp(np.cos(2 * np.pi * (x - 0.3)) + 0.5 * np.sin(2 * np.pi * (y + x)))
        if c["w"] == 0:
            f -= f.mean()
        matrix = dense_finite_differences(c, n)
        if c["w"] == 0:
            matrix += 1 / n**2  # the constant is in the kernel: ask for mean(u) = 0
        exact = np.linalg.solve(matrix, f.ravel()).reshape(n, n)
        ours = solve_field(as_batch(c), f[None])[0]
        differences.append(np.linalg.norm(ours - exact) / np.linalg.norm(ours))
    assert differences[1] < 0.06
    assert 3.0 < differences[0] / differences[1] < 5.5


@pytest.mark.parametrize("n", [15, 16, 64])
def test_the_defect_is_at_rounding_error_with_the_nyquist_rule(n):
    f = np.random.default_rng(RNG_SEED).standard_normal((n, n))  # the Nyquist wavenumbers matter as much as any
    for extra in ({}, {"v1": np.array([0.4]), "v2": np.array([-0.3])}, {"w": np.array([3.3])}):
        c = Coefficients(np.array([0.02]), np.array([0.03]), np.array([0.01]), **extra)
        solver = Solver(n, n)
        solver.take(build_symbols(c, n, n), 0)
        f_hat = forward(f)
        solver.solve_hat(f_hat)
        u = solver.backward()
        assert solver.defect(f_hat) < 1e-12
        u += 1e-6
        if "w" not in extra:
            assert solver.defect(f_hat) < 1e-12  # a constant is in the kernel
        u[3, 4] += 1e-6
        assert solver.defect(f_hat) > 1e-9


def test_parseval_on_the_half_spectrum():
    rng = np.random.default_rng(RNG_SEED)
    for ny, nx in ((8, 8), (9, 7), (6, 11)):
        u = rng.standard_normal((ny, nx))
        assert mean_square(forward(u), nx) == pytest.approx((u**2).mean(), rel=1e-12)


def test_a_resonant_wavenumber_is_removed_from_f_and_u():
    n = 16
    x, _ = np.meshgrid(points(n), points(n))
    w = np.array([0.01 * 4 * np.pi**2])
    c = Coefficients(np.array([0.01]), np.array([0.01]), w=w)
    f = np.cos(2 * np.pi * x) + np.cos(4 * np.pi * x)
    u = solve_field(c, f[None])[0]
    assert np.allclose(u, np.cos(4 * np.pi * x) / (3 * w[0]), atol=1e-12)


@pytest.mark.parametrize("k", [(0.0, 0.01, 0.0), (0.01, 0.01, 0.01), (-0.01, -0.01, 0.0)])
def test_a_tensor_that_is_not_positive_definite_is_refused(k):
    with pytest.raises(ValueError, match="positive definite"):
        solve("poisson", np.zeros((8, 8)), k)


def test_wrong_names_and_shapes_are_refused():
    f = np.zeros((2, 8, 8))
    with pytest.raises(ValueError, match="poisson takes k11, k22, k12"):
        solve("poisson", f, {"k11": 1.0, "k22": 1.0, "w": 0.0})
    with pytest.raises(ValueError, match=r"coefficients must be \(2, 3\)"):
        solve("poisson", f, np.ones((3, 3)))
    with pytest.raises(ValueError, match="source must be"):
        solve("poisson", np.zeros(8), np.ones(3))
