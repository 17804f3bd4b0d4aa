"""One split of a data folder as tensors: source, coefficients, solution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmsci.errors import UserError
from fmsci.shards import Manifest, open_split


@dataclass(frozen=True)
class Samples:
    """B samples: source f (B, H, W), coefficients (B, K) in the system's column order, solution u (B, H, W)."""

    source: Tensor
    coefficients: Tensor
    solution: Tensor

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device) -> Samples:
        """Return the samples on a device; coefficients travel as K numbers and become channels there."""
        move = [part.to(device, non_blocking=True) for part in (self.source, self.coefficients, self.solution)]
        return Samples(*move)


class SampleSet:
    """The first ``limit`` samples of a split (subsets are nested), read from the shards when asked for.

    Raises UserError where the split holds fewer samples than asked for.
    """

    def __init__(self, folder: Path, split: str, limit: int | None = None) -> None:
        self._reader = open_split(folder, split)
        self.folder, self.split = folder, split
        available = len(self._reader)
        if limit is not None and limit > available:
            raise UserError(
                f"{folder} has {available} {split} samples, {limit} were asked for; ask for fewer or make more"
            )
        self._count = available if limit is None else limit

    def __len__(self) -> int:
        return self._count

    def gather(self, indices: NDArray[np.int64]) -> Samples:
        """Return the samples with these numbers, in this order."""
        fields, tensor, _ = self._reader.gather(indices)
        both = torch.from_numpy(fields)
        return Samples(both[:, 0], torch.from_numpy(tensor), both[:, 1])


def check_columns(manifest: Manifest, columns: tuple[str, ...]) -> None:
    """Raise UserError where a model's coefficient channels are not those of a data folder."""
    if tuple(manifest.columns) != columns:
        raise UserError(
            f"the model takes the coefficients {', '.join(columns)} but the data ({manifest.system}) have "
            f"{', '.join(manifest.columns)}; choose data of the same system"
        )
