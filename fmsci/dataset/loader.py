"""Global batches, cut for this rank: any world size sees the same batches and the same gradient."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fmsci.dataset.order import global_batch, num_batches, share
from fmsci.dataset.prefetch import Ahead
from fmsci.dataset.samples import Samples, SampleSource
from fmsci.dataset.transfer import Transfer
from fmsci.stages import named


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


Loaded = tuple[Batch, "torch.cuda.Event | None"]


class Loader:
    """Yields this rank's part of each global batch of an epoch, from any position.

    The batch size is GLOBAL; where there are fewer samples than that, the batch is all of them. A background thread
    stays ``prefetch`` batches ahead (0: no thread), across the epochs of a run of ``epochs``; it ends with the last of
    them, and whenever an epoch is left early.
    """

    def __init__(
        self,
        samples: SampleSource,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        accumulate: int,
        device: torch.device,
        prefetch: int = 2,
        epochs: int = 0,
    ) -> None:
        self.samples, self.seed, self.epochs, self.prefetch = samples, seed, epochs, prefetch
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.batch_size = min(batch_size, len(samples))
        self.wait_s = 0.0
        """Seconds that the consumer has waited for batches so far."""
        self._transfer = Transfer(device, beside=prefetch > 0)
        self._source: Ahead[Loaded] | Generator[Loaded, None, None] | None = None
        self._position = (0, 0)  # epoch and batch that _source gives next

    @property
    def num_batches(self) -> int:
        """Optimizer steps of an epoch."""
        return num_batches(len(self.samples), self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches ``start``, ``start + 1``, ... of an epoch."""
        more = False
        try:
            for index in range(start, self.num_batches):
                yield self._next(epoch, index)
            more = epoch + 1 < self.epochs
        finally:
            if not more:
                self.close()

    def close(self) -> None:
        """End the background thread; an epoch asked for later starts another."""
        if self._source is not None:
            self._source.close()
            self._source = None

    @named("data")
    def _next(self, epoch: int, index: int) -> Batch:
        begun = time.perf_counter()
        if self._source is None or self._position != (epoch, index):
            self.close()
            batches = self._batches(epoch, index)
            self._source = Ahead(batches, self.prefetch) if self.prefetch else batches
        batch, mark = next(self._source)
        self._position = (epoch, index + 1) if index + 1 < self.num_batches else (epoch + 1, 0)
        for piece in batch.pieces:
            self._transfer.received(mark, piece.samples)
        self.wait_s += time.perf_counter() - begun
        return batch

    def _batches(self, epoch: int, start: int) -> Generator[Loaded, None, None]:
        """Make the batches from a position on, to the end of the epoch or of the run. Runs in the thread."""
        for number in range(epoch, max(epoch + 1, self.epochs)):
            order = self.samples.order(self.seed, number)
            for index in range(start if number == epoch else 0, self.num_batches):
                with self._transfer.sending():
                    batch = self._batch(global_batch(order, index, self.batch_size))
                    mark = self._transfer.sent()
                yield batch, mark

    def _batch(self, numbers: NDArray[np.int64]) -> Batch:
        mine = numbers[share(len(numbers), self.world_size, self.rank)]
        pieces = (mine[share(len(mine), self.accumulate, part)] for part in range(self.accumulate))
        return Batch(tuple(self._piece(piece, numbers[:1]) for piece in pieces), len(numbers))

    def _piece(self, numbers: NDArray[np.int64], stand_in: NDArray[np.int64]) -> Piece:
        chosen = numbers if len(numbers) else stand_in
        return Piece(self.samples.gather(chosen, self._transfer.pin).to(self._transfer.device), len(numbers))
