"""The least time of a training step: its operations at the rate of matrix products, or its bytes at that of copying.

What one stage computes while it waits for memory it does so at no cost; one stage does not run beside another.
"""

from __future__ import annotations

from model_figures import GRID

from fmsci.model.sizes import STEP_FLOPS, Architecture
from fmsci.model.transform import HALVED_FROM

ADAM_BYTES = 7 * 4
"""Of a parameter: itself, its gradient and two moments are read, all but the gradient are written."""

WEIGHT_PASSES = 3
"""Spectral weights are read in the forward pass and in the backward one, which writes as much gradient."""


def field_passes(layers: int) -> int:
    """Return how often a field of d channels is read or written.

    By a layer once each forward, and backward twice and once (its input, the gradient above; the one below); the first
    one, which does the lift, only writes forward and reads backward; the head reads, reads and writes.
    """
    return 5 * (layers - 1) + 2 + 3


def floor(
    model: Architecture, batch: int, roof: dict[str, float], cpu: bool, field_number: int = 4
) -> dict[str, float]:
    """Return the least seconds of a sample by stage, on what makes ``roof`` products and copies a second.

    ``field_number``: bytes of a field's number. A CPU halves the sums of the transforms of many modes.
    """
    d, m = model.width, model.modes
    mixing = model.layers * 2 * 4 * d * d * 2 * m * m
    halved = cpu and m >= HALVED_FROM
    sums = model.layers * 2 * 2 * (2 * (m + 1) * GRID * GRID * d + 2 * (m + 1) * 2 * m * GRID * d)
    rest = model.flops(GRID, GRID) - mixing - (sums / 2 if halved else 0)
    weights = WEIGHT_PASSES * model.layers * model.largest_parameter_bytes
    fields = field_passes(model.layers) * GRID * GRID * d * field_number

    def least(operations: float, moved: float) -> float:
        return max(STEP_FLOPS * operations / roof["products"], moved / roof["copy"])

    return {
        "transforms and points": least(rest, fields),
        "mixing": least(mixing, weights / batch),
        "Adam": least(0, ADAM_BYTES * model.num_parameters / batch),
    }
