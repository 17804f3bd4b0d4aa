"""Samples that stay in memory after they were read: in this process, or on its device.

What a cache gives is bit for bit what storage gives, in the same memory layout.
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fmsci.dataset.samples import Samples, SampleSource, empty_samples
from fmsci.errors import UserError
from fmsci.terminal import amount

PIECE, PIECE_BYTES = 256, 1 << 26
"""Samples that are read at once when a whole split moves to a device, and their bytes: at most."""

CacheKind = Literal["none", "host", "device"]


def cached(source: SampleSource, kind: CacheKind, device: torch.device, processes: int) -> SampleSource:
    """Return ``source`` behind the cache that ``data.cache`` names; ``processes`` of this host make one each.

    Raises UserError where the memory for it is not there.
    """
    if kind == "none":
        return source
    on_device = kind == "device" and device.type == "cuda"
    needed = len(source) * 4 * (2 * source.grid**2 + len(source.columns))
    if on_device:
        free, _ = torch.cuda.mem_get_info(device)
        where, advice = f"{device} has {amount(free)} free", "use data.cache=host"
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes
        where, advice = f"this host has {amount(free)} for each of {processes} process(es)", "use data.cache=none"
    if needed > free:
        raise UserError(f"data.cache={kind} takes {amount(needed)} but {where}; {advice}")
    return DeviceCache(source, device) if kind == "device" else HostCache(source)


class _Cache:
    """The samples of ``source`` under the numbers and in the order that it gives them; how they are held differs."""

    def __init__(self, source: SampleSource) -> None:
        self.source, self.columns, self.grid = source, source.columns, source.grid

    def __len__(self) -> int:
        return len(self.source)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """See :class:`fmsci.dataset.samples.SampleSource`."""
        return self.source.order(seed, epoch)

    def numbers(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`fmsci.dataset.samples.SampleSource`."""
        return self.source.numbers(indices)


class HostCache(_Cache):
    """Reads each sample from storage at most once, when it is first asked for."""

    def __init__(self, source: SampleSource) -> None:
        super().__init__(source)
        # Pages that nothing was written to take no memory: a rank pays for what it has read.
        self._fields = np.empty((len(source), 2, self.grid, self.grid), np.float32)
        self._coefficients = np.empty((len(source), len(self.columns)), np.float32)
        self._held = np.zeros(len(source), bool)

    def gather(self, indices: NDArray[np.int64], pin: bool = False) -> Samples:
        """See :class:`fmsci.dataset.samples.SampleSource`."""
        missing = np.unique(indices[~self._held[indices]])
        if len(missing):
            read = self.source.gather(missing)
            self._fields[missing], self._coefficients[missing] = read.fields.numpy(), read.coefficients.numpy()
            self._held[missing] = True
        samples = empty_samples(len(indices), self.grid, len(self.columns), pin)
        # mode="clip" lets numpy write straight into ``out``; torch's own gather would start threads beside the model's.
        np.take(self._fields, indices, axis=0, out=samples.fields.numpy(), mode="clip")
        np.take(self._coefficients, indices, axis=0, out=samples.coefficients.numpy(), mode="clip")
        return samples


class DeviceCache(_Cache):
    """Holds all samples on the device, read when the first is asked for; nothing travels after that."""

    def __init__(self, source: SampleSource, device: torch.device) -> None:
        super().__init__(source)
        self.device = device
        self._held: Samples | None = None

    def gather(self, indices: NDArray[np.int64], pin: bool = False) -> Samples:
        """See :class:`fmsci.dataset.samples.SampleSource`; the samples are on the device already."""
        if self._held is None:
            self._held = self._read()
        if self.device.type == "cpu":  # as in HostCache: no threads beside the model's
            fields, coefficients = self._held.fields.numpy()[indices], self._held.coefficients.numpy()[indices]
            return Samples(torch.from_numpy(fields), torch.from_numpy(coefficients))
        chosen = torch.from_numpy(indices).to(self.device)
        return Samples(self._held.fields[chosen], self._held.coefficients[chosen])

    def _read(self) -> Samples:
        fields = torch.empty((len(self), 2, self.grid, self.grid), device=self.device)
        coefficients = torch.empty((len(self), len(self.columns)), device=self.device)
        at_once = max(1, min(PIECE, PIECE_BYTES // (8 * self.grid**2)))  # each rank of a host takes this room
        for start in range(0, len(self), at_once):
            numbers = np.arange(start, min(start + at_once, len(self)))
            piece = self.source.gather(numbers)
            fields[start : start + at_once] = piece.fields
            coefficients[start : start + at_once] = piece.coefficients
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # whichever stream reads them next finds them there
        return Samples(fields, coefficients)
