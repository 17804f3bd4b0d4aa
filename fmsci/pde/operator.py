"""The one operator behind every system, in Fourier space.

    -div(K grad u) + v . grad u - w u = f      on the unit square, periodic

K = [[k11, k12], [k12, k22]] is symmetric, v = (v1, v2), w a scalar; all constant in space. Each wavenumber is an
eigenvector:

    symbol(k) = (2 pi)^2 (k11 kx^2 + k22 ky^2 + 2 k12 kx ky) + 2 pi i (v1 kx + v2 ky) - w,      u_hat = f_hat / symbol

Nyquist rule: for even n the wavenumbers kx or ky = -n/2 count as 0 in the cross term 2 k12 kx ky and in v . k,
because an odd derivative of that wavenumber is not a real field. With it the float64 residual is near 1e-12, without
it near 1e-9.

A wavenumber whose symbol is exactly 0 is solvable for no u: it is removed from f and from u.

Source: arXiv 2306.00258, equations 1 to 3. The sign of w is the one of its published code: w > 0 makes the operator
INDEFINITE.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmsci.pde.grid import Real, Spectrum, backward, forward, odd_wavenumbers, squared_norm, wavenumbers

NAMES = ("k11", "k22", "k12", "v1", "v2", "w")
"""The order of all coefficients, wherever all are named."""


@dataclass(frozen=True)
class Coefficients:
    """Coefficients of B operators, each a float64 array (B,); ``None`` where a system has none."""

    k11: Real
    k22: Real
    k12: Real | None = None
    v1: Real | None = None
    v2: Real | None = None
    w: Real | None = None

    def or_zero(self, name: str) -> Real:
        """Return the named coefficient, zeros where it is absent."""
        value: Real | None = getattr(self, name)
        return np.zeros_like(self.k11) if value is None else value

    @property
    def is_real(self) -> bool:
        """Whether the symbol is real, as it is without advection."""
        return self.v1 is None and self.v2 is None


@dataclass(frozen=True)
class Operator:
    """B operators on one grid."""

    symbol: Spectrum
    """(B, ny, nx // 2 + 1)."""
    inverse: Spectrum
    """1 / symbol, and 0 where the symbol is 0."""
    dead: tuple[NDArray[np.int64], ...]
    """Sample, ky and kx index of each wavenumber whose symbol is 0."""
    nx: int

    def take(self, rows: NDArray[np.int64]) -> Operator:
        """Return the operators of some samples, ``rows`` ascending."""
        kept = np.isin(self.dead[0], rows)
        samples, ky, kx = (indices[kept] for indices in self.dead)
        return Operator(self.symbol[rows], self.inverse[rows], (np.searchsorted(rows, samples), ky, kx), self.nx)


def build_operator(c: Coefficients, ny: int, nx: int) -> Operator:
    """Return the operators of the coefficients ``c`` (B,) on a ny x nx grid.

    Raises ValueError where K is not positive definite: the equation is then not elliptic.
    """
    if not (np.all(c.k11 > 0) and np.all(c.k11 * c.k22 > c.or_zero("k12") ** 2)):
        raise ValueError("the diffusion tensor K must be positive definite: k11 > 0 and k11 k22 > k12^2")
    symbol = build_symbol(c, ny, nx)
    dead: tuple[NDArray[np.int64], ...]
    if c.w is None:  # K is positive definite: only the mean has symbol 0
        samples = np.arange(len(c.k11))
        dead = (samples, np.zeros_like(samples), np.zeros_like(samples))
    else:  # a resonance cancels terms of size w: what is left of them below their rounding error is 0
        dead = np.nonzero(np.abs(symbol) <= (16 * np.finfo(np.float64).eps * np.abs(c.w))[:, None, None])
    symbol[dead] = 1
    if c.is_real:
        inverse = np.zeros_like(symbol)
        np.divide(1.0, symbol.real, out=inverse.real)
    else:
        inverse = 1.0 / symbol
    symbol[dead] = inverse[dead] = 0
    return Operator(symbol, inverse, dead, nx)


def build_symbol(c: Coefficients, ny: int, nx: int) -> Spectrum:
    """Return symbol(k) (B, ny, nx // 2 + 1).

    As a polynomial in ky of degree 2 whose coefficients are functions of kx, it is one small matrix product per sample,
    [ky^2, ky, 1] (ny, 3) times (3, nx // 2 + 1), with real and imaginary parts side by side.
    """
    ky, kx = wavenumbers(ny, nx)
    ky_odd, kx_odd = odd_wavenumbers(ny, nx)
    powers = np.stack([ky**2, ky_odd, np.ones_like(ky)], axis=1)
    rows = np.zeros((len(c.k11), 3, len(kx)), dtype=np.complex128)
    rows.real[:, 0] = (4 * np.pi**2 * c.k22)[:, None]
    rows.real[:, 2] = (4 * np.pi**2 * c.k11)[:, None] * kx**2
    if c.k12 is not None:
        rows.real[:, 1] = (8 * np.pi**2 * c.k12)[:, None] * kx_odd
    if c.w is not None:
        rows.real[:, 2] -= c.w[:, None]
    if not c.is_real:
        rows.imag[:, 1] = (2 * np.pi * c.or_zero("v2"))[:, None]
        rows.imag[:, 2] = (2 * np.pi * c.or_zero("v1"))[:, None] * kx_odd
    symbol: Spectrum = np.matmul(powers, rows.view(np.float64)).view(np.complex128)
    return symbol


def solve_hat(operator: Operator, source_hat: Spectrum) -> Spectrum:
    """Return u_hat = f_hat / symbol, 0 where the symbol is 0."""
    return source_hat * operator.inverse


def residual(operator: Operator, solution: Real, source_hat: Spectrum) -> Real:
    """Return ||L u - f|| / ||f|| per sample (B,), over the wavenumbers whose symbol is not 0.

    ``solution`` is the field (B, ny, nx), transformed anew: the inverse transform that made it is part of what is
    checked. A source without any solvable part has residual 0 for u = 0.
    """
    defect = forward(solution)
    defect *= operator.symbol
    defect -= source_hat
    defect[operator.dead] = 0
    solvable = source_hat
    if np.any(source_hat[operator.dead]):
        solvable = source_hat.copy()
        solvable[operator.dead] = 0
    scale = squared_norm(solvable, operator.nx)
    return np.sqrt(squared_norm(defect, operator.nx) / np.where(scale > 0, scale, 1))


def solve_field(c: Coefficients, source: Real) -> Real:
    """Return u (B, ny, nx) float64 with L u = f for sources f (B, ny, nx) and coefficients (B,).

    Raises ValueError where K is not positive definite.
    """
    ny, nx = source.shape[-2:]
    operator = build_operator(c, ny, nx)
    return backward(solve_hat(operator, forward(source)), nx)
