"""Read HDF5 files in the paper's layout, made by other programs: ``fields (N, 2, n, n)`` and ``tensor (N, K)``,
float32 or float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from fmsci.errors import UserError
from fmsci.shards.layout import FIELDS, TENSOR


@dataclass(frozen=True)
class ForeignFile:
    """A file in the paper's layout."""

    path: Path
    count: int
    grid: int
    num_columns: int

    def read(self, first: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return fields (count, 2, n, n) and tensor (count, K) from the sample ``first`` on, as float32."""
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                rows = slice(first, first + count)
                return file[FIELDS][rows].astype(np.float32), file[TENSOR][rows].astype(np.float32)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read from sample {first} on: {error}") from None


def open_foreign(path: Path) -> ForeignFile:
    """Return the facts of a file; UserError where it is not in the paper's layout."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            shapes = {name: file[name].shape for name in (FIELDS, TENSOR) if isinstance(file.get(name), h5py.Dataset)}
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} is not an HDF5 file that can be read: {error}") from None
    for name in (FIELDS, TENSOR):
        if name not in shapes:
            raise UserError(
                f"{path} has no dataset '{name}'; the paper's layout is fields (N, 2, n, n) and tensor (N, K)"
            )
    fields, tensor = shapes[FIELDS], shapes[TENSOR]
    if len(fields) != 4 or fields[1] != 2 or fields[2] != fields[3]:
        raise UserError(f"{path}: fields is {fields} but should be (N, 2, n, n): source and solution")
    if len(tensor) != 2 or tensor[0] != fields[0] or fields[0] == 0:
        raise UserError(f"{path}: tensor is {tensor} but should be ({fields[0]}, K), one row per sample")
    return ForeignFile(path, fields[0], fields[2], tensor[1])


def read_pieces(
    files: list[ForeignFile], first: int, count: int, at_once: int
) -> Iterator[tuple[ForeignFile, int, NDArray[np.float32], NDArray[np.float32]]]:
    """Yield the samples first .. first + count - 1 of files laid end to end, at most ``at_once`` at a time.

    With each piece comes the file and the number of the piece's first sample in it.
    """
    begin = 0
    for file in files:
        low, high = max(first - begin, 0), min(first + count - begin, file.count)
        for at in range(low, high, at_once):
            yield file, at, *file.read(at, min(at_once, high - at))
        begin += file.count
