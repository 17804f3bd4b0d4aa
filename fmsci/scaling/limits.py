"""How small a batch may be before exchanging dominates, and how large before the memory is full. Pure functions."""

from __future__ import annotations

from dataclasses import replace

from fmsci.engine.memory import state_bytes
from fmsci.engine.traffic import FLOAT32
from fmsci.scaling.cost import CostModel
from fmsci.scaling.points import Point

PASSING = 2
"""Fields beside those that are kept: the gradient above a layer and the one that it makes."""

MOST_SAMPLES = 1 << 16
"""Where computing does not outweigh the exchange with so many samples a rank, it never does."""


def memory_bytes(point: Point) -> int:
    """Return what a step takes of a device's memory: the state, and the fields of one piece.

    0.93 to 1.14 of what was counted on an H100 where a step takes more than a GiB: gradients come as fields go.
    """
    state = sum(state_bytes(point.how, point.shape.num_parameters, point.world_size).values())
    joined = point.shape.joins_lift(point.how.transform, point.how.device == "cpu")
    kept = point.shape.saved_bytes(point.grid, point.grid, point.how.recompute, joined)
    fields = kept + PASSING * FLOAT32 * point.grid**2 * point.shape.width
    if point.how.precision == "bf16":
        fields //= 2
    return state + fields * -(-point.local // point.how.accumulate)


def batch_floor(cost: CostModel, point: Point, nodes: int) -> int | None:
    """Return the fewest samples of a rank with which computing takes as long as the exchange adds; None: none do."""

    def outweighs(local: int) -> bool:
        found = cost.estimate(replace(point, batch=local * point.world_size), nodes)
        return found.compute_s >= found.exchange_s

    high = 1
    while not outweighs(high):
        high *= 2
        if high > MOST_SAMPLES:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if outweighs(middle) else (middle, high)
    return high
