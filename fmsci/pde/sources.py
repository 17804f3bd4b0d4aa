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


def build_sources(amplitudes: Real, n: int, keep_mean: bool) -> tuple[Real, Spectrum]:
    """Return f (B, n, n) with maximum 1 over the grid, and its half spectrum (B, n, n // 2 + 1).

    Without ``keep_mean`` the mean is removed after the division, as for the systems that have no solution otherwise.
    """
    G = profiles(n)
    field = np.matmul(np.matmul(G, amplitudes), G.T)
    scale = 1 / field.reshape(len(field), -1).max(axis=1)
    field *= scale[:, None, None]
    field_hat = _spectra(amplitudes * scale[:, None, None], n)
    if not keep_mean:
        field -= field_hat[:, :1, :1].real / n**2
        field_hat[:, 0, 0] = 0
    return field, field_hat


def _spectra(amplitudes: Real, n: int) -> Spectrum:
    """Return G_hat A G_hat^T (B, n, n // 2 + 1), the spectrum of G A G^T, in real arithmetic.

    With G_hat = P + i Q the product is [P, Q] [A G_hat^T; A i G_hat^T], where the second factor keeps real and
    imaginary parts side by side: one real matrix product of inner size 24 instead of a transform.
    """
    left, right = _spectral_profiles(n)
    mixed = np.matmul(amplitudes, right).reshape(len(amplitudes), 2 * NUM_CENTRES, -1)
    spectra: Spectrum = np.matmul(left, mixed).view(np.complex128)
    return spectra


@lru_cache(maxsize=32)
def _spectral_profiles(n: int) -> tuple[Real, Real]:
    G = profiles(n)
    left = np.ascontiguousarray(np.fft.fft(G, axis=0)).view(
        np.float64
    )  # (n, 24): P and Q of each Gaussian side by side
    half = np.ascontiguousarray(np.fft.rfft(G, axis=0).T)  # (12, n // 2 + 1)
    right = np.stack([half, 1j * half], axis=1).view(np.float64).reshape(NUM_CENTRES, -1)
    left.flags.writeable = right.flags.writeable = False
    return left, right
