"""What a system is: its columns, how they are drawn, and how they stand for the general operator's coefficients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fmsci.pde.grid import Real
from fmsci.pde.operator import NAMES, Coefficients


@dataclass(frozen=True)
class Draw:
    """What a system is given to draw the coefficients of B samples."""

    uniforms: Real
    """(B, num_uniforms) in [0, 1)."""
    low: float
    high: float
    """The range that the data set is named by."""
    amplitudes: Real
    """Amplitudes of the sources (B, 12, 12): a coefficient may depend on its source."""
    grid: int
    options: Mapping[str, str]
    """The choice for each of the system's options."""


@dataclass(frozen=True)
class Drawn:
    """What a system draws for B samples."""

    columns: NDArray[np.float32]
    """(B, K): the coefficients as they are stored."""
    figures: Mapping[str, Real] = field(default_factory=dict)
    """(B,) figures that are stored beside them, by name."""


@dataclass(frozen=True)
class System:
    """One kind of equation. A new one is one file with one of these, and one line in ``fmsci/pde/catalogue.py``."""

    name: str
    columns: tuple[str, ...]
    """Names of the stored coefficients, in the order of the paper's own arrays."""
    stands_for: tuple[tuple[str, ...], ...]
    """For each column, which of the operator's coefficients k11, k22, k12, v1, v2, w it is."""
    num_uniforms: int
    """Uniform numbers that one sample's coefficients take, after those of its source."""
    draw: Callable[[Draw], Drawn]
    """From uniform numbers and sources to coefficients."""
    check_range: Callable[[float, float, Mapping[str, str]], str | None]
    """From a range and the options to a sentence saying what is wrong with it, or None."""
    observe: Callable[[Real, Real], Real]
    """From columns (B, K) and sources (B, ny, nx) to the quantity (B,) that a range is of."""
    keep_mean: bool = False
    """Whether the mean of f stays; where it does not, mean(f) = mean(u) = 0."""
    max_solution: float | None = None
    """A draw with max|u| above this is rejected and drawn again; None where nothing is rejected."""
    tally: str | None = None
    """The column by whose values accepted and rejected draws are counted; None where nothing is rejected."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ways to draw, by name: the first choice is the default."""
    figures: Mapping[str, str] = field(default_factory=dict)
    """The figures that ``draw`` gives besides the coefficients: their names, and what they are."""

    @property
    def tallied_column(self) -> int:
        """The place of ``tally`` among the columns."""
        return self.columns.index(self.tally or self.columns[0])

    @property
    def expansion(self) -> Real:
        """Return E (K, 6) of zeros and ones: ``columns @ E`` gives k11, k22, k12, v1, v2, w."""
        matrix = np.zeros((len(self.columns), len(NAMES)))
        for row, names in enumerate(self.stands_for):
            for name in names:
                matrix[row, NAMES.index(name)] = 1
        return matrix

    def expand(self, columns: Real) -> Coefficients:
        """Return the operator's coefficients (B,) of the columns (B, K)."""
        found = {name: columns[:, row] for row, names in enumerate(self.stands_for) for name in names}
        return Coefficients(**found)


def check_increasing(low: float, high: float, smallest: float, strictly: bool) -> str | None:
    """Return what is wrong with a range that must satisfy smallest <= (or <) low <= high, or None."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return "both ends must be finite numbers"
    if low > high:
        return f"the first number must not be above the second, got {low:g} and {high:g}"
    if low < smallest or (strictly and low == smallest):
        return f"the first number must be {'above' if strictly else 'at least'} {smallest:g}, got {low:g}"
    return None
