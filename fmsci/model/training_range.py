"""What a model was trained on, as far as it can be told from its input: where its answers have been measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmsci.pde import SYSTEMS
from fmsci.pde.grid import Real

SLACK = 1e-5
"""How far a coefficient may lie outside, as a part of the larger end: training data are float32."""


@dataclass(frozen=True)
class TrainingRange:
    """The spread of a training split, from smallest to largest."""

    systems: tuple[str, ...]
    grid: int
    source_norm: tuple[float, float]
    """Of ||f||_2 / n, the L2 norm on the unit square."""
    coefficients: dict[str, tuple[float, float]]
    """Of each coefficient; a channel that a system of a mixture does not have is 0 there."""

    @property
    def keeps_mean(self) -> bool:
        """Whether a training source may have a mean: in one of these systems, or one that is not known here."""
        return any(name not in SYSTEMS or SYSTEMS[name].keep_mean for name in self.systems)

    def outside(self, norm: Real, coefficients: Real) -> str | None:
        """Say which coefficients (B, K) of sources with ||f||_2 / n ``norm`` (B,) lie outside, or None.

        (t f, t c) has the solution of (f, c) and gives the model the same input, for every t > 0. So a sample is inside
        where some t takes the strength of its source and all of its coefficients into their ranges at once. Where none
        does, the coefficients are told that the t nearest to 1 leaves outside, of the first such sample.
        """
        nearest, known = self._scaling(norm, coefficients)
        if known.all():
            return None
        first = int(np.argmin(known))
        found = []
        for column, (name, (low, high)) in enumerate(self._widened().items()):
            value, same = coefficients[first, column], coefficients[first, column] * nearest[first]
            if not low <= same <= high:
                as_if = "" if value == same else f", which counts as {same:.4g} with a source of this strength"
                ends = self.coefficients[name]
                found.append(f"{name} = {value:.4g}{as_if} (trained on {ends[0]:.4g} to {ends[1]:.4g})")
        return ", ".join(found)

    def _scaling(self, norm: Real, coefficients: Real) -> tuple[Real, NDArray[np.bool_]]:
        """Return the t (B,) nearest to 1 that the source allows, and whether one suits the coefficients too (B,)."""
        some = norm > 0
        low, high = (
            np.divide(end * side, norm, out=np.ones(len(norm)), where=some)
            for end, side in zip(self.source_norm, (1 - SLACK, 1 + SLACK), strict=True)
        )
        nearest = np.clip(1.0, low, high)
        for values, ends in zip(coefficients.T, self._widened().values(), strict=True):
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                at_ends = np.stack([end / values for end in ends])
            absent = values == 0
            belongs = ends[0] <= 0 <= ends[1]
            low = np.maximum(low, np.where(absent, 0.0 if belongs else np.inf, at_ends.min(axis=0)))
            high = np.minimum(high, np.where(absent, np.inf if belongs else 0.0, at_ends.max(axis=0)))
        return nearest, low <= high

    def _widened(self) -> dict[str, tuple[float, float]]:
        """Return the ranges of the coefficients with room for the rounding of float32."""
        slack = {name: SLACK * max(abs(low), abs(high)) for name, (low, high) in self.coefficients.items()}
        return {name: (low - slack[name], high + slack[name]) for name, (low, high) in self.coefficients.items()}
