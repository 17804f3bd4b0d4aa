"""The scales that a model divides its input by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scales:
    """The scales of a training split; they belong to the model, so a fine-tune keeps those of its pretrained model.

    source: median of ||f||_2 / n, the L2 norm on the unit square; coefficients: name -> median of the absolute
    non-zero values, in channel order.
    """

    source: float
    coefficients: dict[str, float]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the coefficient channels, in order."""
        return tuple(self.coefficients)
