"""Several data folders, possibly of different systems, as one set of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fmsci.dataset.order import apportion, mixture_order
from fmsci.dataset.samples import Samples, SampleSet, empty_samples
from fmsci.errors import UserError


class Mixture:
    """The samples of all ``sets``, one set after another, drawn with a weight per set.

    An epoch is as long as there are samples, E = sum of the sets' sizes. Each set has a share of its positions in
    proportion to its weight, the same number in every epoch: exact where E * weight / sum(weights) is whole, rounded
    by the largest remainder (so by less than one sample) where it is not. With weights in proportion to the sizes
    every sample comes once an epoch; a set with more weight is repeated within an epoch, one with less is spread over
    several. Either way a set's samples all come once before any comes again, across epochs too.

    Raises UserError where the sets have different grids or other coefficients, or a weight is too small for even one
    sample an epoch.
    """

    def __init__(self, sets: Sequence[SampleSet], weights: Sequence[float]) -> None:
        self.sets, self.weights = tuple(sets), tuple(weights)
        self.columns, self.grid = sets[0].columns, sets[0].grid
        for one in sets:
            if one.grid != self.grid:
                raise UserError(
                    f"the folders of a mixture must have one grid, but {sets[0].folder} has {self.grid} x {self.grid} "
                    f"and {one.folder} has {one.grid} x {one.grid}"
                )
            if one.columns != self.columns:
                raise UserError(
                    f"the folders of a mixture must have the same coefficients, but {sets[0].folder} has "
                    f"{', '.join(self.columns)} and {one.folder} has {', '.join(one.columns)}"
                )
        self.sizes = tuple(len(one) for one in sets)
        self._firsts = np.cumsum((0, *self.sizes[:-1]))
        self.drawn = apportion(weights, len(self))
        for one, count, weight in zip(sets, self.drawn, weights, strict=True):
            if count == 0:
                raise UserError(
                    f"the weight {weight:g} of {one.folder} gives it no sample of an epoch of {len(self)}; raise it or "
                    "leave the folder out"
                )

    def __len__(self) -> int:
        return sum(self.sizes)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """See :class:`fmsci.dataset.samples.SampleSource`."""
        return mixture_order(seed, epoch, self.sizes, self.drawn)

    def numbers(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`fmsci.dataset.samples.SampleSource`."""
        return indices

    def gather(self, indices: NDArray[np.int64], pin: bool = False) -> Samples:
        """See :class:`fmsci.dataset.samples.SampleSource`."""
        owners = np.searchsorted(self._firsts, indices, side="right") - 1
        samples = empty_samples(len(indices), self.grid, len(self.columns), pin)
        for owner in np.unique(owners).tolist():
            places = np.flatnonzero(owners == owner)
            self.sets[owner].gather_into(samples, places, indices[places] - self._firsts[owner])
        return samples
