"""What a model was trained on, as far as it can be told from its input: where its answers have been measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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

    def equivalent(self, norm: Real, coefficients: Real) -> Real:
        """Return the coefficients (B, K) that training would have had for the same input of the model.

        (t f, t c) has the solution of (f, c), and gives the model the same input. So a source that is weaker or
        stronger than all in training is scaled to the nearest strength there, and its coefficients with it.
        """
        low, high = self.source_norm
        factor = np.divide(np.clip(norm, low, high), norm, out=np.ones_like(norm), where=norm > 0)
        scaled: Real = coefficients * factor[:, None]
        return scaled

    def outside(self, norm: Real, coefficients: Real) -> str | None:
        """Say which coefficients (B, K) of sources with ||f||_2 / n ``norm`` (B,) lie outside, or None."""
        counted = self.equivalent(norm, coefficients)
        found = []
        for column, (name, (low, high)) in enumerate(self.coefficients.items()):
            slack = SLACK * max(abs(low), abs(high))
            far = np.maximum(low - slack - counted[:, column], counted[:, column] - high - slack)
            if len(far) and far.max() > 0:
                worst = int(far.argmax())
                value, same = coefficients[worst, column], counted[worst, column]
                as_if = "" if value == same else f", which counts as {same:.4g} with a source of this strength"
                found.append(f"{name} = {value:.4g}{as_if} (trained on {low:.4g} to {high:.4g})")
        return ", ".join(found) or None
