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

from fmsci.pde.grid import Real, forward, half_spectrum_weights, odd_wavenumbers, wavenumbers
from fmsci.pde.poisson import build_tensor
from fmsci.pde.sources import build_bands
from fmsci.pde.system import Draw, Drawn, System, check_increasing

DIFFUSION_RATIOS = (1.0, 5.0)
SOURCE_BAND = 22
"""A source has 1e-8 of its energy above this wavenumber: the ratio is solved for without it."""
MAX_STEPS = 200
LAST_STEP = 1e-6
"""Newton's method squares the error: a relative step of this size is the last one."""

LARGEST_ERROR = 1e-6
"""So exactly has every sample the ratio that was drawn, with its coefficients as they are stored."""


def draw(d: Draw) -> Drawn:
    """Return (k11, k22, k12, v1, v2) (B, 5) from four uniform numbers, m, s, t and psi; and psi as it came out."""
    low, high = DIFFUSION_RATIOS
    tensor = build_tensor(low + (high - low) * d.uniforms[:, 0], 2 * np.pi * d.uniforms[:, 1])
    angle = 2 * np.pi * d.uniforms[:, 2]
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    largest = min(SOURCE_BAND, d.grid // 2)
    energy = band_energy(d.amplitudes, d.grid, largest)
    slope = slopes(tensor, direction, d.grid, largest)
    ratio = drawn_ratio(d.uniforms, d.low, d.high)
    r = np.sqrt(solve_for_ratio(energy, slope, ratio))[:, None]
    # Rounding v for storage turns it a little, and a large ratio hangs on its direction: with the v that is stored,
    # find again what K is divided by. It is 1 + r but for that rounding.
    velocity = (direction * (r / (1 + r))).astype(np.float32)
    divisor = np.sqrt(
        solve_for_ratio(energy, slopes(tensor, velocity.astype(np.float64), d.grid, largest), ratio, (1 + r[:, 0]) ** 2)
    )
    columns = np.concatenate([(tensor / divisor[:, None]).astype(np.float32), velocity], axis=1)
    stored = columns.astype(np.float64)
    psi = measure_ratio(energy, slopes(stored[:, :3], stored[:, 3:], d.grid, largest))
    worst = int(np.argmax(np.abs(psi / ratio - 1)))
    if not abs(psi[worst] / ratio[worst] - 1) <= LARGEST_ERROR:
        raise ArithmeticError(f"the ratio {ratio[worst]:g} cannot be stored to {LARGEST_ERROR:g}, only {psi[worst]:g}")
    return Drawn(columns, {"psi": psi})


def drawn_ratio(uniforms: Real, low: float, high: float) -> Real:
    """Return psi (B,) as drawn."""
    return low + (high - low) * uniforms[:, 3]


def solve_for_ratio(energy: Real, slope: Real, ratio: Real, near: Real | None = None) -> Real:
    """Return r^2 (B,), r = l / (1 - l), at which the solution has the given ratio psi (B,); ``near`` is a good guess.

    ``energy`` is |f_hat|^2 and ``slope`` q, both (B, M). Each sample takes its own number of steps, so that its bits do
    not depend on its neighbours. Raises ArithmeticError where no r gives the ratio: v is then exactly along an axis.
    """
    total = energy.sum(axis=1)
    target = (1 + ratio**2) / total
    largest = np.sqrt(total / np.maximum((energy * (slope == 0)).sum(axis=1), 1e-300) - 1)
    if np.any(ratio >= largest):
        at = int(np.argmax(ratio >= largest))
        raise ArithmeticError(f"no advection in this direction gives the ratio {ratio[at]:g}, at most {largest[at]:g}")
    # Without a guess, the first step from 0.
    squared: Real = ratio**2 * total / (energy * slope).sum(axis=1) if near is None else near.copy()
    active = np.arange(len(ratio))
    for _ in range(MAX_STEPS):
        q = slope[active]
        fraction = 1 / (1 + squared[active, None] * q)
        part = energy[active] * fraction
        diffusive = part.sum(axis=1)
        falls = np.multiply(part, np.multiply(fraction, q, out=fraction), out=part).sum(axis=1)
        step = (target[active] * diffusive - 1) * diffusive / falls
        squared[active] += step
        active = active[~(np.abs(step) <= LAST_STEP * squared[active])]
        if active.size == 0:
            return squared
    raise ArithmeticError(f"the ratio {ratio[active[0]]:g} was not found in {MAX_STEPS} steps")


def measure_ratio(energy: Real, slope: Real) -> Real:
    """Return psi (B,) of the solutions: sqrt(T / D - 1) with v and K as they are, r = 1."""
    ratio: Real = np.sqrt(energy.sum(axis=1) / (energy / (1 + slope)).sum(axis=1) - 1)
    return ratio


def band_energy(amplitudes: Real, n: int, largest: int) -> Real:
    """Return |f_hat|^2 (B, M) up to a factor at the wavenumbers |ky|, kx <= ``largest`` without the mean."""
    band = build_bands(amplitudes, n, largest)
    energy = (band.real**2 + band.imag**2) * half_spectrum_weights(n)[: largest + 1]
    return energy.reshape(len(energy), -1)[:, 1:]


def slopes(tensor: Real, velocity: Real, n: int, largest: int) -> Real:
    """Return q = (b / a)^2 (B, M) of K (B, 3) and v (B, 2), at the wavenumbers |ky|, kx <= ``largest`` without the
    mean."""
    rows = np.flatnonzero(np.abs(wavenumbers(n, n)[0]) <= largest)
    ky, ky_odd = (k[0][rows, None] for k in (wavenumbers(n, n), odd_wavenumbers(n, n)))
    kx, kx_odd = (k[1][: largest + 1] for k in (wavenumbers(n, n), odd_wavenumbers(n, n)))
    k11, k22, k12 = tensor.T[:, :, None, None]
    a = k22 * ky**2 + (k11 * kx**2) + (2 * k12) * (kx_odd * ky_odd)
    b = velocity[:, :1, None] * kx_odd + velocity[:, 1:, None] * ky_odd
    a, b = (values.reshape(len(tensor), -1)[:, 1:] for values in (a, b))  # the mean comes first
    np.divide(b, a, out=b)
    return np.square(b, out=b) / (4 * np.pi**2)


def observe(columns: Real, source: Real) -> Real:
    """Return psi (B,) over all wavenumbers, for sources (B, n, n) of any kind."""
    n = source.shape[-1]
    energy = np.abs(forward(source)) ** 2 * half_spectrum_weights(n)
    energy = energy.reshape(len(energy), -1)[:, 1:]
    return measure_ratio(energy, slopes(columns[:, :3], columns[:, 3:], n, n // 2))


def check_range(low: float, high: float, options: Mapping[str, str]) -> str | None:
    """A ratio of norms is positive."""
    return check_increasing(low, high, 0.0, strictly=True)


SYSTEM = System(
    name="advection_diffusion",
    columns=("k11", "k22", "k12", "v1", "v2"),
    stands_for=(("k11",), ("k22",), ("k12",), ("v1",), ("v2",)),
    num_uniforms=4,
    draw=draw,
    observe=observe,
    check_range=check_range,
    figures={"psi": "||v . grad u|| / ||div(K grad u)||, the ratio that a range is of"},
)
