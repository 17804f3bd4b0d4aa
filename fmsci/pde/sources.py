"""Sources f: 144 Gaussians with random amplitudes.

    f(x, y) = sum_ij A_ij exp(-((x - c_j)^2 + (y - c_i)^2) / (2 s^2)),      s = 1/32,  c_i = 1/2 + (i - 11/2)/16,  i =
    0..11

Each amplitude is U[1e-3, 1] with probability 1 - sparsity, else 0; sparsity is 0.2, 0.4, 0.6 or 0.8, equally often;
at least one amplitude is not 0. The sum is divided by its maximum over the grid. The Gaussians are separable: with G
(n, 12) their values along one axis, f = G A G^T and f_hat = G_hat A G_hat^T, two small matrix products each.

Source: arXiv 2306.00258, appendix on data generation. The Gaussians are not periodic images: at the boundary, five
widths away from the nearest centre, they are cut at 4e-6.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fmsci.pde.grid import Real, Spectrum, points

NUM_CENTRES = 12
WIDTH = 1 / 32
SPACING = 1 / 16
SPARSITIES = (0.2, 0.4, 0.6, 0.8)
SMALLEST_AMPLITUDE = 1e-3
NUM_UNIFORMS = 2 * NUM_CENTRES**2 + 2
"""How many uniform numbers one source takes: presence and amplitude of each Gaussian, the sparsity, a last resort."""


@lru_cache(maxsize=32)
def profiles(n: int) -> Real:
    """Return G (n, 12): the values of the twelve 1-D Gaussians on the grid points of one axis."""
    centres = 0.5 + (np.arange(NUM_CENTRES) - (NUM_CENTRES - 1) / 2) * SPACING
    values = np.exp(-((points(n)[:, None] - centres) ** 2) / (2 * WIDTH**2))
    values.flags.writeable = False
    return values


def sparsity_index(uniform: Real) -> NDArray[np.int64]:
    """Return which of SPARSITIES each uniform number (B,) stands for."""
    return np.minimum((uniform * len(SPARSITIES)).astype(np.int64), len(SPARSITIES) - 1)


def build_amplitudes(uniforms: Real) -> Real:
    """Return A (B, 12, 12), indexed [y, x], from uniform numbers (B, NUM_UNIFORMS) in [0, 1)."""
    count = NUM_CENTRES**2
    presence, height, sparsity, last_resort = np.split(uniforms, [count, 2 * count, 2 * count + 1], axis=1)
    probability_of_zero = np.asarray(SPARSITIES)[sparsity_index(sparsity)]
    present = presence >= probability_of_zero
    chosen = np.minimum((last_resort * count).astype(np.int64), count - 1)
    present |= ~present.any(axis=1, keepdims=True) & (np.arange(count) == chosen)
    amplitudes = np.where(present, SMALLEST_AMPLITUDE + (1 - SMALLEST_AMPLITUDE) * height, 0.0)
    return amplitudes.reshape(-1, NUM_CENTRES, NUM_CENTRES)


class SourceBuilder:
    """Builds sources on a n x n grid, one at a time, in buffers that stay in a core's cache."""

    def __init__(self, n: int, keep_mean: bool) -> None:
        """Allocate the buffers; ``keep_mean`` False removes the mean, as for the systems that have no solution
        otherwise."""
        self.n, self.keep_mean = n, keep_mean
        self._means = profiles(n).mean(axis=0)
        self._columns = np.empty((n, NUM_CENTRES))
        self.field = np.empty((n, n))
        self.field_hat = np.empty((n, n // 2 + 1), dtype=np.complex128)

    def build(self, amplitudes: Real) -> None:
        """Put f with maximum 1 over the grid, for A (12, 12), into ``field``, and its half spectrum into ``field_hat``.

        The mean is removed after the division by the maximum.
        """
        G = profiles(self.n)
        np.matmul(G, amplitudes, out=self._columns)
        np.matmul(self._columns, G.T, out=self.field)
        scale = 1 / float(self.field.max())
        np.multiply(self.field, scale, out=self.field)
        left, right = _spectral_profiles(self.n, self.n // 2)
        mixed = ((amplitudes * scale) @ right).reshape(2 * NUM_CENTRES, -1)
        np.matmul(left, mixed, out=self.field_hat.view(np.float64))
        if not self.keep_mean:
            np.subtract(self.field, scale * float(self._means @ amplitudes @ self._means), out=self.field)
            self.field_hat[0, 0] = 0


def build_bands(amplitudes: Real, n: int, largest: int) -> Spectrum:
    """Return the spectra (B, 2 L + 1, L + 1) of G A G^T at |ky|, kx <= L = ``largest``, ky in FFT order, not
    divided."""
    left, right = _spectral_profiles(n, largest)
    mixed = np.matmul(amplitudes, right).reshape(len(amplitudes), 2 * NUM_CENTRES, -1)
    bands: Spectrum = np.matmul(left, mixed).view(np.complex128)
    return bands


@lru_cache(maxsize=32)
def _spectral_profiles(n: int, largest: int) -> tuple[Real, Real]:
    """Return the constant factors of the spectrum G_hat A G_hat^T at wavenumbers up to L, in real arithmetic.

    With G_hat = P + i Q it is [P, Q] [A G_hat^T; A i G_hat^T], where the second factor keeps real and imaginary parts
    side by side: one real matrix product of inner size 24 instead of a transform. The factors are P and Q, Gaussian by
    Gaussian (2 L + 1, 24), and G_hat^T beside i G_hat^T (12, 4 L + 4).
    """
    G = profiles(n)
    rows = np.flatnonzero(np.abs(np.fft.fftfreq(n, 1 / n)) <= largest)
    left = np.ascontiguousarray(np.fft.fft(G, axis=0)[rows]).view(float)
    half = np.ascontiguousarray(np.fft.rfft(G, axis=0)[: largest + 1].T)
    right = np.stack([half, 1j * half], axis=1).view(float).reshape(NUM_CENTRES, -1)
    left.flags.writeable = right.flags.writeable = False
    return left, right
