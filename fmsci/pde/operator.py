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
from typing import Any

import numpy as np

from fmsci.errors import ArgumentError
from fmsci.pde.grid import Real, Spectrum, backward, forward, mean_square, odd_wavenumbers, wavenumbers

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
class Symbols:
    """The symbols of B operators on one grid, as polynomials in ky whose coefficients are functions of kx."""

    rows: Real
    """(B, 3, 2 m), m = nx // 2 + 1: the factors of ky^2, ky and 1 at each kx, a real and an imaginary part side by
    side."""
    is_real: bool
    """Without advection the symbol is real; both places of a pair then hold it."""
    w: Real | None
    ellipticity: Real
    """(B,): (2 pi)^2 times the smaller eigenvalue of K; without w no symbol but that of the mean is smaller."""

    def __len__(self) -> int:
        """Return the number of operators."""
        return len(self.rows)


def check_elliptic(c: Coefficients) -> None:
    """Raise ArgumentError where K is not positive definite: the equation is then not elliptic, and u no solution."""
    k12 = c.or_zero("k12")
    wrong = ~((c.k11 > 0) & (c.k11 * c.k22 > k12**2))
    if wrong.any():
        first = int(wrong.argmax())
        raise ArgumentError(
            "the diffusion tensor K must be positive definite, k11 > 0 and k11 k22 > k12^2, not "
            f"k11 = {c.k11[first]:g}, k22 = {c.k22[first]:g}, k12 = {k12[first]:g}"
        )


def build_symbols(c: Coefficients, ny: int, nx: int) -> Symbols:
    """Return the symbols of the coefficients ``c`` (B,) on a ny x nx grid; see :func:`check_elliptic`."""
    check_elliptic(c)
    kx, kx_odd = wavenumbers(ny, nx)[1], odd_wavenumbers(ny, nx)[1]
    rows = np.zeros((len(c.k11), 3, len(kx), 2))
    real = rows if c.is_real else rows[..., :1]
    real[:, 0] = (4 * np.pi**2 * c.k22)[:, None, None]
    real[:, 2] = ((4 * np.pi**2 * c.k11)[:, None] * kx**2)[..., None]
    if c.k12 is not None:
        real[:, 1] = ((8 * np.pi**2 * c.k12)[:, None] * kx_odd)[..., None]
    if c.w is not None:
        real[:, 2] -= c.w[:, None, None]
    if not c.is_real:
        rows[:, 1, :, 1] = (2 * np.pi * c.or_zero("v2"))[:, None]
        rows[:, 2, :, 1] = (2 * np.pi * c.or_zero("v1"))[:, None] * kx_odd
    half_gap = np.hypot((c.k11 - c.k22) / 2, c.or_zero("k12"))
    ellipticity = 4 * np.pi**2 * ((c.k11 + c.k22) / 2 - half_gap)
    return Symbols(rows.reshape(len(rows), 3, -1), c.is_real, c.w, ellipticity)


class Solver:
    """Solves on one grid, one sample at a time, in buffers that are small enough to stay in a core's cache.

    ``take`` an operator, ``solve_hat`` with it, go ``backward`` to the grid, and measure the ``defect`` of the
    result. One sample at a time also means that its bits cannot depend on its neighbours.
    """

    def __init__(self, ny: int, nx: int) -> None:
        """Allocate the buffers for fields (ny, nx)."""
        self.ny, self.nx = ny, nx
        half = nx // 2 + 1
        ky, ky_odd = wavenumbers(ny, nx)[0], odd_wavenumbers(ny, nx)[0]
        self._powers = np.stack([ky**2, ky_odd, np.ones_like(ky)], axis=1)
        self._symbol = np.empty((ny, 2 * half))
        self._work = np.empty((ny, half), dtype=np.complex128)
        self.solution_hat = np.empty((ny, half), dtype=np.complex128)
        self.solution = np.empty((ny, nx))
        self._is_real = True
        self._dead: tuple[Any, ...] | None = (0, 0)
        """Where the symbol is 0; K is positive definite, so without w that is the mean."""
        self.smallest = 1.0
        """A lower bound of |symbol| where it is not 0: by so much the solution can exceed the source, at most."""

    def take(self, symbols: Symbols, index: int) -> None:
        """Make the operator ``index`` of a batch the present one."""
        np.matmul(self._powers, symbols.rows[index], out=self._symbol)
        self._is_real = symbols.is_real
        if symbols.w is None:
            self._dead, self.smallest = (0, 0), float(symbols.ellipticity[index])
        else:
            self._dead, self.smallest = self._resonances(float(symbols.w[index]))
        if self._dead is not None and self._is_real:
            self._symbol.reshape(self.ny, -1, 2)[self._dead] = 1
        elif self._dead is not None:
            self._symbol.view(np.complex128)[self._dead] = 1

    def _resonances(self, w: float) -> tuple[tuple[Any, ...] | None, float]:
        """Return the places where the symbol is 0, and the smallest size elsewhere.

        w cancels terms of its size, so what is below their rounding error is 0.
        """
        rounding = 16 * np.finfo(np.float64).eps * abs(w)
        if self._is_real:
            size = np.abs(self._symbol, out=self._work.view(np.float64))
            smallest = float(size.min())
            if smallest > rounding:
                return None, smallest
            size = size[:, ::2]
        else:
            size = np.abs(self._symbol.view(np.complex128))
        dead = size <= rounding
        return np.nonzero(dead), float(size[~dead].min(initial=np.inf))

    def remove_unsolvable(self, source_hat: Spectrum) -> bool:
        """Set the wavenumbers of f_hat (ny, m) to 0 whose symbol is 0, and tell whether any was there."""
        if self._dead is None or not (source_hat[self._dead] != 0).any():
            return False
        source_hat[self._dead] = 0
        return True

    def solve_hat(self, source_hat: Spectrum) -> Spectrum:
        """Return u_hat = f_hat / symbol (ny, m), 0 where the symbol is 0, in the buffer ``solution_hat``."""
        if self._is_real:
            np.divide(source_hat.view(np.float64), self._symbol, out=self.solution_hat.view(np.float64))
        else:
            np.divide(source_hat, self._symbol.view(np.complex128), out=self.solution_hat)
        if self._dead is not None:
            self.solution_hat[self._dead] = 0
        return self.solution_hat

    def backward(self) -> Real:
        """Return u (ny, nx) of ``solution_hat``, in the buffer ``solution``."""
        return backward(self.solution_hat, self.nx, out=self.solution, work=self._work)

    def defect(self, source_hat: Spectrum) -> float:
        """Return the root mean square of L u - f over the grid, over the wavenumbers whose symbol is not 0.

        The field ``solution`` is transformed anew: the inverse transform that made it is part of what is checked.
        """
        defect = forward(self.solution, out=self._work)
        pairs = defect.view(np.float64)
        if self._is_real:
            np.multiply(pairs, self._symbol, out=pairs)
        else:
            np.multiply(defect, self._symbol.view(np.complex128), out=defect)
        np.subtract(pairs, source_hat.view(np.float64), out=pairs)
        if self._dead is not None:
            defect[self._dead] = 0
        return float(mean_square(defect, self.nx) ** 0.5)


def solve_field(c: Coefficients, source: Real) -> Real:
    """Return u (B, ny, nx) float64 with L u = f for sources f (B, ny, nx) and coefficients (B,).

    Raises ArgumentError where K is not positive definite.
    """
    ny, nx = source.shape[-2:]
    solver, symbols = Solver(ny, nx), build_symbols(c, ny, nx)
    result = np.empty((len(source), ny, nx))
    for index, field in enumerate(source):
        solver.take(symbols, index)
        solver.solve_hat(forward(field))
        result[index] = solver.backward()
    return result
