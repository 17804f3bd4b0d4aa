"""The periodic unit square and its wavenumbers.

Conventions, said once for the whole room:
- grid points are x_i = i / nx and y_j = j / ny: the left boundary belongs to the grid, the right one does not;
- fields are arrays (B, ny, nx): the x axis is the LAST one, y the one before it;
- ``_hat`` names the unnormalised half spectrum of a real field, ``numpy.fft.rfft2``: (B, ny, nx // 2 + 1), with kx >=
  0 along the last axis and ky in FFT order along the one before it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Spectrum = NDArray[np.complex128]

LARGEST_MEAN = 1e-5
"""Of a source without a mean, as a part of its root mean square: more is no rounding."""


def points(n: int) -> Real:
    """Return the ``n`` coordinates i / n of one axis."""
    return np.arange(n, dtype=np.float64) / n


@lru_cache(maxsize=32)
def wavenumbers(ny: int, nx: int) -> tuple[Real, Real]:
    """Return the integer wavenumbers ky (ny,) in FFT order and kx (nx // 2 + 1,), both as float64."""
    ky = np.fft.fftfreq(ny, 1 / ny).astype(np.float64)
    kx = np.arange(nx // 2 + 1, dtype=np.float64)
    ky.flags.writeable = kx.flags.writeable = False
    return ky, kx


@lru_cache(maxsize=32)
def odd_wavenumbers(ny: int, nx: int) -> tuple[Real, Real]:
    """Return :func:`wavenumbers` with the Nyquist ones set to 0, as odd derivatives need them.

    For even n the wavenumber n/2 is its own mirror image, so i k u_hat there is not the spectrum of a real field.
    Counting it as 0 in every odd factor keeps the operator real, and its residual at rounding error.
    """
    ky, kx = (k.copy() for k in wavenumbers(ny, nx))
    if ny % 2 == 0:
        ky[ny // 2] = 0
    if nx % 2 == 0:
        kx[nx // 2] = 0
    ky.flags.writeable = kx.flags.writeable = False
    return ky, kx


def forward(field: Real, out: Spectrum | None = None) -> Spectrum:
    """Return the half spectrum (..., ny, nx // 2 + 1) of a real field (..., ny, nx).

    One axis after the other, in place: the second pass finds the first one's result still in the cache.
    """
    half = np.fft.rfft(field, axis=-1, out=out)
    return np.fft.fft(half, axis=-2, out=half)


def backward(field_hat: Spectrum, nx: int, out: Real | None = None, work: Spectrum | None = None) -> Real:
    """Return the real field (..., ny, nx) of a half spectrum: the inverse of :func:`forward`; ``work`` is
    overwritten."""
    half = np.fft.ifft(field_hat, axis=-2, out=work)
    return np.fft.irfft(half, n=nx, axis=-1, out=out)


@lru_cache(maxsize=32)
def half_spectrum_weights(nx: int) -> Real:
    """Return how many wavenumbers of the full spectrum each kx (nx // 2 + 1,) of the half one stands for.

    Each kx > 0 stands for -kx too, except, for even nx, kx = nx / 2.
    """
    weights = np.full(nx // 2 + 1, 2.0)
    weights[0] = 1
    if nx % 2 == 0:
        weights[-1] = 1
    weights.flags.writeable = False
    return weights


def mean_square(field_hat: Spectrum, nx: int) -> float:
    """Return the mean of u^2 over the grid from its half spectrum (ny, nx // 2 + 1), by Parseval."""
    total = 2 * sum_of_squares(field_hat.view(np.float64)) - _column(field_hat, 0)
    if nx % 2 == 0:
        total -= _column(field_hat, -1)
    return max(total, 0.0) / float(len(field_hat) * nx) ** 2


def _column(field_hat: Spectrum, index: int) -> float:
    return float(np.vdot(field_hat[:, index], field_hat[:, index]).real)


def sum_of_squares(values: Real) -> float:
    """Return the sum of squares of an array (ny, m), a dot product per row.

    A dot product of the whole array would be cut up among threads, and its bits would depend on their number.
    """
    return float(np.vecdot(values, values).sum())
