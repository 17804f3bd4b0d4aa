"""Advection and diffusion with a prescribed ratio, SYS-2(a1, a2).

    -div(K grad u) + v . grad u = f,      K = (1 - l) K0,      v = l (cos t, sin t)
    K0 = 0.01 R(s)^T diag(1, m) R(s),     m ~ U[1, 5],  s, t ~ U[0, 2 pi]

f and u have mean 0. The weight l in (0, 1) is the one that gives the ratio drawn for the sample:

    psi = ||v . grad u|| / ||div(K grad u)|| ~ U[a1, a2]      (L2 norms, u the solution itself)

Columns: (k11, k22, k12, v1, v2), with the factors (1 - l) and l in them. psi is stored with every sample.

How l is found. With a(k) and b(k) the real and imaginary part of the symbol at weight 1 each, r = l / (1 - l) and q =
(b / a)^2, Parseval gives D(r) = sum |f_hat|^2 / (1 + r^2 q) for the diffusive part and T - D for the advective one, T
= sum |f_hat|^2, so

    1 + psi^2 = T / D(r) = weighted harmonic mean of 1 + r^2 q

which increases with r^2 and is concave in it: Newton's method from r = 0 climbs to the root and never passes it.

Source: arXiv 2306.00258, section 3 (SYS-2). Its code takes l from a table of mean ratios; the ratio of a sample then
strays from its range.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fmsci.pde.grid import Real, Spectrum, half_spectrum_weights, odd_wavenumbers, squared_norm, wavenumbers
from fmsci.pde.operator import Operator
from fmsci.pde.poisson import build_tensor
from fmsci.pde.system import Draw, System, check_increasing

DIFFUSION_RATIOS = (1.0, 5.0)
SOURCE_BAND = 24
"""A source has 2e-10 of its energy above this wavenumber: the ratio is solved for without it."""
MAX_STEPS = 200


def draw(d: Draw) -> Real:
    """Return (k11, k22, k12, v1, v2) (B, 5) from four uniform numbers: m, s, t and psi."""
    low, high = DIFFUSION_RATIOS
    tensor = build_tensor(low + (high - low) * d.uniforms[:, 0], 2 * np.pi * d.uniforms[:, 1])
    angle = 2 * np.pi * d.uniforms[:, 2]
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ratio = drawn_ratio(d.uniforms, d.low, d.high)
    r = solve_for_ratio(d.source_hat, d.nx, tensor, direction, ratio)[:, None]
    return np.concatenate([tensor / (1 + r), direction * (r / (1 + r))], axis=1)


def drawn_ratio(uniforms: Real, low: float, high: float) -> Real:
    """Return psi (B,) as drawn."""
    return low + (high - low) * uniforms[:, 3]


def solve_for_ratio(source_hat: Spectrum, nx: int, tensor: Real, direction: Real, ratio: Real) -> Real:
    """Return r = l / (1 - l) (B,) at which the solution has the given ratio psi (B,).

    ``tensor`` (B, 3) is K0 and ``direction`` (B, 2) a unit vector. Each sample takes its own number of steps, so that
    its bits do not depend on its neighbours. Raises ArithmeticError where no r gives the ratio: v would have to be
    along a grid axis exactly.
    """
    energy, q = _band(source_hat, nx, tensor, direction)
    target = 1 + ratio**2
    total = energy.sum(axis=1)
    squared = np.zeros_like(ratio)
    active = np.arange(len(ratio))
    for _ in range(MAX_STEPS):
        e, slope = energy[active], q[active]
        fraction = 1 / (1 + squared[active, None] * slope)
        part = e * fraction
        diffusive = part.sum(axis=1)
        falls = (part * fraction * slope).sum(axis=1)
        gap = target[active] - total[active] / diffusive
        step = gap * diffusive**2 / (total[active] * falls)
        squared[active] += step
        active = active[~(np.abs(step) <= 1e-12 * squared[active])]
        if active.size == 0:
            return np.sqrt(squared)
    raise ArithmeticError(f"no advection strength gives the ratio {ratio[active[0]]:g} along {direction[active[0]]}")


def _band(source_hat: Spectrum, nx: int, tensor: Real, direction: Real) -> tuple[Real, Real]:
    """Return |f_hat|^2 and q = (b / a)^2 (B, M) at the M wavenumbers that matter, without the mean."""
    ny = source_hat.shape[1]
    rows = np.flatnonzero(np.abs(wavenumbers(ny, nx)[0]) <= SOURCE_BAND)
    last = min(SOURCE_BAND + 1, source_hat.shape[2])
    ky, ky_odd = (k[0][rows, None] for k in (wavenumbers(ny, nx), odd_wavenumbers(ny, nx)))
    kx, kx_odd = (k[1][:last] for k in (wavenumbers(ny, nx), odd_wavenumbers(ny, nx)))
    k11, k22, k12 = tensor.T[:, :, None, None]
    a = 4 * np.pi**2 * (k11 * kx**2 + k22 * ky**2 + 2 * k12 * (kx_odd * ky_odd))
    b = 2 * np.pi * (direction[:, :1, None] * kx_odd + direction[:, 1:, None] * ky_odd)
    band = source_hat[:, rows, :last]
    energy = (band.real**2 + band.imag**2) * half_spectrum_weights(nx)[:last]
    energy, a, b = (values.reshape(len(tensor), -1)[:, 1:] for values in (energy, a, b))  # the mean is first
    return energy, (b / a) ** 2


def measured_ratio(operator: Operator, solution_hat: Spectrum) -> Real:
    """Return psi (B,) of finished solutions, over all wavenumbers: the symbol's two parts are the two operators."""
    advective = squared_norm(operator.symbol.imag * solution_hat, operator.nx)
    return np.sqrt(advective / squared_norm(operator.symbol.real * solution_hat, operator.nx))


def check_range(low: float, high: float, options: Mapping[str, str]) -> str | None:
    """A ratio of norms is positive."""
    return check_increasing(low, high, 0.0, strictly=True)


ADVECTION_DIFFUSION = System(
    name="advection_diffusion",
    paper_name="SYS-2",
    columns=("k11", "k22", "k12", "v1", "v2"),
    stands_for=(("k11",), ("k22",), ("k12",), ("v1",), ("v2",)),
    num_uniforms=4,
    draw=draw,
    check_range=check_range,
    measures={"psi": measured_ratio},
)
