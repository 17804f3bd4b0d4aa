"""Anisotropic diffusion, SYS-1(e1, e2).

    -div(K grad u) = f,      K = 0.01 R(t)^T diag(1, l) R(t),      l ~ U[e1, e2],  t ~ U[0, 2 pi]

f and u have mean 0. Columns: (k11, k22, k12).

Source: arXiv 2306.00258, section 3 (SYS-1); the factor 0.01 is the published code's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fmsci.pde.grid import Real
from fmsci.pde.system import Draw, Drawn, System, check_increasing

DIFFUSIVITY = 0.01
"""The smaller eigenvalue of K, in all systems."""


def build_tensor(ratio: Real, angle: Real) -> Real:
    """Return (k11, k22, k12) (B, 3) of 0.01 R^T diag(1, ratio) R with R = [[cos, sin], [-sin, cos]]."""
    cos, sin = np.cos(angle), np.sin(angle)
    k11 = cos**2 + ratio * sin**2
    k22 = sin**2 + ratio * cos**2
    k12 = (1 - ratio) * cos * sin
    return DIFFUSIVITY * np.stack([k11, k22, k12], axis=1)


def draw(d: Draw) -> Drawn:
    """Return (k11, k22, k12) (B, 3) from two uniform numbers: the ratio of eigenvalues and the angle."""
    ratio = d.low + (d.high - d.low) * d.uniforms[:, 0]
    return Drawn(build_tensor(ratio, 2 * np.pi * d.uniforms[:, 1]).astype(np.float32))


def observe(columns: Real, source: Real) -> Real:
    """Return the ratio of K's eigenvalues (B,): of the larger to 0.01."""
    k11, k22, k12 = columns.T
    larger = (k11 + k22) / 2 + np.hypot((k11 - k22) / 2, k12)
    smaller = k11 + k22 - larger
    # a ratio below 1 makes 0.01 the larger eigenvalue
    ratio: Real = np.where(np.abs(larger - DIFFUSIVITY) < np.abs(smaller - DIFFUSIVITY), smaller, larger) / DIFFUSIVITY
    return ratio


def check_range(low: float, high: float, options: Mapping[str, str]) -> str | None:
    """A ratio of eigenvalues is positive."""
    return check_increasing(low, high, 0.0, strictly=True)


SYSTEM = System(
    name="poisson",
    columns=("k11", "k22", "k12"),
    stands_for=(("k11",), ("k22",), ("k12",)),
    num_uniforms=2,
    draw=draw,
    observe=observe,
    check_range=check_range,
)
