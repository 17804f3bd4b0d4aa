"""One split of a data folder as tensors: source, coefficients, solution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmsci.dataset.order import epoch_order, subset_order
from fmsci.errors import UserError
from fmsci.pde import NAMES, SYSTEMS
from fmsci.shards import Manifest, open_split


@dataclass(frozen=True)
class Samples:
    """B samples: fields (B, 2, H, W), source f then solution u as they are stored, and coefficients (B, K).

    The two fields stay one block: it moves to a device in one copy, and it has the same memory layout wherever it
    comes from, so that results do not depend on where that was.
    """

    fields: Tensor
    coefficients: Tensor

    @property
    def source(self) -> Tensor:
        """The source f (B, H, W)."""
        return self.fields[:, 0]

    @property
    def solution(self) -> Tensor:
        """The solution u (B, H, W)."""
        return self.fields[:, 1]

    def __len__(self) -> int:
        return len(self.fields)

    def to(self, device: torch.device) -> Samples:
        """Return the samples on a device; coefficients travel as K numbers and become channels there."""
        return Samples(self.fields.to(device, non_blocking=True), self.coefficients.to(device, non_blocking=True))


def empty_samples(count: int, grid: int, columns: int, pin: bool) -> Samples:
    """Return room for so many samples; unpinned room comes from numpy, which asks for huge pages (cheaper to touch)."""
    shapes = (count, 2, grid, grid), (count, columns)
    if pin:
        return Samples(*(torch.empty(shape, pin_memory=True) for shape in shapes))
    return Samples(*(torch.from_numpy(np.empty(shape, np.float32)) for shape in shapes))


class SampleSource(Protocol):
    """Samples 0 .. len - 1, on storage, in memory or on a device: what a loader and a measurement draw from."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the coefficients, in order."""
        ...

    @property
    def grid(self) -> int:
        """Points along each side of the fields."""
        ...

    def __len__(self) -> int:
        """Return the number of samples, which is also the number that an epoch visits."""
        ...

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the samples that an epoch visits, in that order (len,); a pure function."""
        ...

    def numbers(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what the samples ``indices`` are called in their data folder; of a mixture, the indices themselves."""
        ...

    def gather(self, indices: NDArray[np.int64], pin: bool = False) -> Samples:
        """Return the samples with these numbers, in this order; in pinned memory where ``pin`` (for copies to CUDA)."""
        ...


class SampleSet:
    """``limit`` samples of a split, the first or those of a ``subset`` (nested), read from the shards when asked for.

    ``columns`` are the coefficients that a model takes: those of the data, or all six of the general operator, with
    zeros where the data's system has none. Files are opened by the thread that first gathers.

    Raises UserError where the split holds fewer samples than asked for, or the columns are others.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        limit: int | None = None,
        columns: tuple[str, ...] | None = None,
        subset: int = 0,
    ) -> None:
        self._reader = open_split(folder, split)
        self.folder, self.split = folder, split
        self.manifest = self._reader.manifest
        self.columns = self.manifest.columns if columns is None else columns
        self._expansion = _expansion(self.manifest, self.columns)
        available = len(self._reader)
        if limit is not None and limit > available:
            raise UserError(
                f"{folder} has {available} {split} samples, {limit} were asked for; ask for fewer or make more"
            )
        self._count = available if limit is None else limit
        self._rows = subset_order(subset, available)[:limit].copy() if subset and limit is not None else None
        """Which samples of the split they are; None: the first ones."""

    @property
    def grid(self) -> int:
        """See :class:`SampleSource`."""
        return self._reader.grid

    def __len__(self) -> int:
        return self._count

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the permutation of an epoch."""
        return epoch_order(seed, epoch, self._count)

    def numbers(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`SampleSource`."""
        return indices if self._rows is None else self._rows[indices]

    def gather(self, indices: NDArray[np.int64], pin: bool = False) -> Samples:
        """See :class:`SampleSource`."""
        samples = empty_samples(len(indices), self.grid, len(self.columns), pin)
        self.gather_into(samples, np.arange(len(indices)), indices)
        return samples

    def gather_into(self, samples: Samples, places: NDArray[np.int64], indices: NDArray[np.int64]) -> None:
        """Write the samples ``indices`` to the rows ``places`` of ``samples``."""
        _, tensor, _ = self._reader.gather(self.numbers(indices), samples.fields.numpy(), places)
        samples.coefficients.numpy()[places] = self.expand(tensor)

    def expand(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return stored coefficients (B, K) as the columns of this set."""
        if self._expansion is None:
            return tensor
        stored, wanted = self._expansion
        expanded = np.zeros((len(tensor), len(self.columns)), np.float32)
        expanded[:, wanted] = tensor[:, stored]
        return expanded

    def spread(self) -> tuple[tuple[float, float], dict[str, tuple[float, float]]] | None:
        """Return smallest and largest ||f||_2 / n and coefficients of the whole split, or None where it is not told."""
        figures = self.manifest.statistics.get(self.split, {})
        if not {"source_norm", *self.manifest.columns} <= figures.keys():
            return None
        ends = [[getattr(figures[name], end) for name in self.manifest.columns] for end in ("min", "max")]
        lows, highs = self.expand(np.array(ends, np.float32)).astype(np.float64).tolist()
        norm = figures["source_norm"]
        return (norm.min, norm.max), dict(zip(self.columns, zip(lows, highs, strict=True), strict=True))

    def figure(self, name: str) -> NDArray[Any]:
        """Return a figure that is stored with every sample (source_norm, tensor, ...) of the samples of this set."""
        whole = self._reader.figure(name)
        return whole[: self._count] if self._rows is None else whole[self._rows]


def _expansion(
    manifest: Manifest, columns: tuple[str, ...]
) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]] | None:
    """Return which stored columns go to which wanted ones, None where they are the same.

    Raises UserError where a model's coefficient channels are neither those of the data nor all six.
    """
    if tuple(manifest.columns) == columns:
        return None
    if columns == tuple(NAMES) and manifest.system in SYSTEMS:
        stored, wanted = np.nonzero(SYSTEMS[manifest.system].expansion)
        return stored, wanted
    raise UserError(
        f"the model takes the coefficients {', '.join(columns)} but the data ({manifest.system}) have "
        f"{', '.join(manifest.columns)}; choose data of the same system, or a model of all six coefficients"
    )
