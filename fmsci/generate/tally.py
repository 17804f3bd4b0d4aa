"""How many draws were accepted, by the value of the tallied coefficient: what rejection does to a distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def tally_size(low: float, high: float) -> int:
    """Return how many whole numbers the values of a range fall on when rounded down."""
    return int(np.floor(high)) - int(np.floor(low)) + 1


class Tally:
    """Counts draws by the whole number below their value: ``table`` (W, 3) int64 holds that number, drawn, accepted."""

    def __init__(self, low: float, high: float) -> None:
        """Start from nothing for values in [low, high]."""
        self.first = int(np.floor(low))
        self.table = np.zeros((tally_size(low, high), 3), np.int64)
        self.table[:, 0] = self.first + np.arange(len(self.table))

    def add(self, drawn: NDArray[np.float32], accepted: NDArray[np.float32]) -> None:
        """Count the values of some draws and those of the accepted ones among them."""
        for column, values in ((1, drawn), (2, accepted)):
            places = np.floor(values).astype(np.int64) - self.first
            places = places.clip(0, len(self.table) - 1)  # a float32 may have been rounded out of the range
            self.table[:, column] += np.bincount(places, minlength=len(self.table))
