"""Global batches, cut for this rank: any world size sees the same batches and the same gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fmsci.dataset.order import epoch_order, global_batch, num_batches, share
from fmsci.dataset.samples import Samples, SampleSet


@dataclass(frozen=True)
class Piece:
    """What one forward and backward pass takes: ``count`` samples of a global batch, or a stand-in with weight 0.

    A rank (or an accumulation step) without a sample still takes part in the reduction, with one sample of weight 0.
    """

    samples: Samples
    count: int


@dataclass(frozen=True)
class Batch:
    """This rank's part of a global batch of ``global_count`` samples, in equally many pieces on every rank."""

    pieces: tuple[Piece, ...]
    global_count: int


class Loader:
    """Yields this rank's part of each global batch of an epoch, from any position.

    The batch size is GLOBAL; where there are fewer samples than that, the batch is all of them.
    """

    def __init__(
        self,
        samples: SampleSet,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        accumulate: int,
        device: torch.device,
    ) -> None:
        self.samples, self.seed, self.device = samples, seed, device
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.batch_size = min(batch_size, len(samples))

    @property
    def num_batches(self) -> int:
        """Optimizer steps of an epoch."""
        return num_batches(len(self.samples), self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches ``start``, ``start + 1``, ... of an epoch."""
        order = epoch_order(self.seed, epoch, len(self.samples))
        for index in range(start, self.num_batches):
            numbers = global_batch(order, index, self.batch_size)
            mine = numbers[share(len(numbers), self.world_size, self.rank)]
            pieces = (mine[share(len(mine), self.accumulate, part)] for part in range(self.accumulate))
            yield Batch(tuple(self._piece(piece, numbers) for piece in pieces), len(numbers))

    def _piece(
        self, numbers: np.ndarray[tuple[int], np.dtype[np.int64]], batch: np.ndarray[tuple[int], np.dtype[np.int64]]
    ) -> Piece:
        chosen = numbers if len(numbers) else batch[:1]
        return Piece(self.samples.gather(chosen).to(self.device), len(numbers))
