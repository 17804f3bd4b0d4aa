"""Read a split of a data folder: memory maps of the contiguous datasets, HDF5 reads where a file has none.

A map costs no copy and no lock, and every process of a node shares its pages. Files are opened on first use, in the
process that uses them, and stay open as far as the process may have open files: samples come in any order, so each
of a shard that is not open asks the file system's one server of names for it.
"""

from __future__ import annotations

import mmap
import resource
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from fmsci.errors import UserError, nearest
from fmsci.files import regular_file
from fmsci.shards.layout import ACCEPTANCE, FIELDS, MANIFEST, SAMPLE_ID, TENSOR
from fmsci.shards.manifest import Manifest, ShardRecord, read_manifest
from fmsci.shards.plain import inside, open_hdf5, plain

FEWEST_OPEN, MOST_OPEN = 256, 16_384
"""Shards that stay open in a process, of all its readers: each takes a file handle and a map, of which Linux gives a
process 65,530. A reader that comes late gets its share beside them."""

Maps = dict[str, tuple[tuple[int, ...], Any, int]]
"""Shape, dtype and offset in the file of each dataset that can be mapped."""

Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Shape and number type that each dataset should have."""

Batch = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


class SplitReader:
    """The samples 0 .. len - 1 of one split.

    A shard is opened when it is first asked for, and must be what the manifest says of it: data of the folder's own,
    and as many of the same shape. The first one is looked at already here: all others have at most as many samples,
    so no memory is ever taken for more than the folder can hold.
    """

    def __init__(self, folder: Path, manifest: Manifest, split: str) -> None:
        """Made by :func:`open_split`, which has looked that there are shards."""
        self.folder = folder
        self.split = split
        self.manifest = manifest
        self.columns = manifest.columns
        self.grid = manifest.grid
        self._records = manifest.splits[split].shards
        self._firsts = np.array([record.first for record in self._records], dtype=np.int64)
        self._shards: OrderedDict[int, _Shard] = OrderedDict()
        self._maps: dict[int, Maps] = {}  # of every shard seen: opening one again then takes no look into its HDF5
        _Shard(folder, self._records[0], self._shapes(0))
        with _LOCK:
            _READERS.add(self)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.manifest.splits[self.split].count

    def __getstate__(self) -> dict[str, Any]:
        """Travel to another process without the open files: it opens its own."""
        return {**self.__dict__, "_shards": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive there."""
        self.__dict__ |= state
        with _LOCK:
            _READERS.add(self)

    def gather(
        self,
        indices: NDArray[np.integer[Any]],
        out: NDArray[np.float32] | None = None,
        places: NDArray[np.integer[Any]] | None = None,
    ) -> Batch:
        """Return the samples ``indices`` (B,), in that order; with ``places`` (B,), fields go to those rows of ``out``.

        Returns:
            fields (B, 2, n, n) float32 (source, solution; written into ``out`` where given), tensor (B, K) float32 and
            sample_id (B,) int64.

        Raises:
            IndexError: where an index is outside the split.
            UserError: where a shard is missing or damaged.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"the split {self.split} has samples 0 to {len(self) - 1}")
        fields = np.empty((len(wanted), 2, self.grid, self.grid), np.float32) if out is None else out
        tensor = np.empty((len(wanted), len(self.columns)), np.float32)
        sample_id = np.empty(len(wanted), np.int64)
        owners = np.searchsorted(self._firsts, wanted, side="right") - 1
        rows = wanted - self._firsts[owners]
        target = range(len(wanted)) if places is None else places.tolist()
        for position, (owner, row, place) in enumerate(zip(owners.tolist(), rows.tolist(), target, strict=True)):
            shard = self._shards.get(owner) or self._open(owner)
            fields[place] = shard.fields[row]
            tensor[position] = shard.tensor[row]
            sample_id[position] = shard.sample_id[row]
        return fields if places is not None else fields[: len(wanted)], tensor, sample_id

    def figure(self, name: str) -> NDArray[Any]:
        """Return a (N,) or (N, K) dataset of the whole split: residual, source_norm, tensor, ..."""
        return np.concatenate([read_datasets(self.folder, record, [name])[name] for record in self._records])

    def _shapes(self, index: int) -> Shapes:
        """Return the shape and number type that the datasets of a shard should have."""
        record = self._records[index]
        layout = self.manifest.facts.shard(self.split, index, record.first, record.count).datasets()
        return {name: layout[name] for name in (FIELDS, TENSOR, SAMPLE_ID)}

    def _open(self, index: int) -> _Shard:
        shard = _Shard(self.folder, self._records[index], self._shapes(index), self._maps.get(index))
        with _LOCK:
            readers = list(_READERS)
        most = most_open() if shard.maps is not None else FEWEST_OPEN  # HDF5 keeps megabytes of each
        # Only its own are closed, as another may be read in another thread; so a few more than the most may be open.
        while len(self._shards) >= max(1, most // len(readers)) and sum(len(one._shards) for one in readers) >= most:
            self._shards.popitem(last=False)
        self._shards[index] = shard
        if shard.maps is not None:
            self._maps[index] = shard.maps
        return shard


_READERS: WeakSet[SplitReader] = WeakSet()
_LOCK = Lock()


def most_open() -> int:
    """Return how many shards may stay open: a quarter of what the process may have open, as it is now."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(FEWEST_OPEN, min(MOST_OPEN, allowed // 4)) if allowed != resource.RLIM_INFINITY else MOST_OPEN


class _Shard:
    """The open datasets of one file: arrays over a memory map, or HDF5 datasets."""

    def __init__(self, folder: Path, record: ShardRecord, shapes: Shapes, maps: Maps | None = None) -> None:
        path = folder / record.file
        self.maps = maps
        found = self._look(folder, record, shapes) if maps is None else {}
        if self.maps is not None:
            try:
                with regular_file(path).open("rb") as raw:
                    pages = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
                found = {
                    name: np.ndarray(shape, dtype, pages, start) for name, (shape, dtype, start) in self.maps.items()
                }
            except (OSError, ValueError, TypeError) as error:  # gone, empty, shorter than its datasets
                raise _unreadable(folder, path, error) from None
        self.fields, self.tensor, self.sample_id = (found[name] for name in (FIELDS, TENSOR, SAMPLE_ID))

    def _look(self, folder: Path, record: ShardRecord, shapes: Shapes) -> dict[str, Any]:
        """Return the HDF5 datasets, or none and set ``maps`` where they are contiguous."""
        path = folder / record.file
        try:
            file = open_hdf5(inside(folder, record.file))
            found = {name: plain(file, name, *shape) for name, shape in shapes.items()}
        except UNREADABLE as error:
            raise _unreadable(folder, path, error) from None
        offsets = {name: dataset.id.get_offset() for name, dataset in found.items()}
        if all(offset is not None for offset in offsets.values()):
            self.maps = {name: (dataset.shape, dataset.dtype, offsets[name]) for name, dataset in found.items()}
            file.close()
            return {}
        return found


def read_datasets(folder: Path, record: ShardRecord, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return whole datasets of a shard by name; UserError where one is missing, damaged, or of another length."""
    path = folder / record.file
    found = {}
    try:
        with open_hdf5(inside(folder, record.file)) as file:
            for name in names:
                dataset = plain(file, name)
                if dataset.dtype.kind not in "fi" or (name != ACCEPTANCE and dataset.shape[:1] != (record.count,)):
                    raise ValueError(f"the dataset {name} is {dataset.shape} {dataset.dtype}")
                found[name] = dataset[()]
    except UNREADABLE as error:
        raise _unreadable(folder, path, error) from None
    return found


UNREADABLE = (OSError, KeyError, ValueError, RuntimeError)
"""What h5py raises where a file is damaged, and ``plain`` where it is not what it seems."""


def _unreadable(folder: Path, path: Path, error: Exception) -> UserError:
    why = error.args[0] if isinstance(error, KeyError) else error
    reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {why}"
    return UserError(f"{path} {reason}; run: fmsci data check {folder}")


def open_split(folder: Path, split: str) -> SplitReader:
    """Return a reader of ``train``, ``valid`` or ``test`` of a data folder.

    Raises UserError where the folder holds no finished data, or no such split.
    """
    manifest = read_manifest(folder)
    if split not in manifest.splits:
        raise UserError(f"{folder} has no split '{split}'{nearest(split, manifest.splits)}")
    wrong = manifest.contradiction(split)
    if wrong is not None:
        raise UserError(f"{folder / MANIFEST} contradicts itself: {wrong}; run: fmsci data check {folder}")
    return SplitReader(folder, manifest, split)
