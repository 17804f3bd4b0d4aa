"""Read HDF5 files of other programs, maybe of a stranger: ``fields (N, C, ny, nx)``, source and solution, and ``tensor
(N, K)``, as in the paper's files and in a shard.

A file's numbers are its own: nothing is read through a link, from external storage, or from a virtual dataset's file
outside of its folder; and what it declares is held against its size before any memory is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fmsci.errors import UserError
from fmsci.shards.layout import FIELDS, TENSOR
from fmsci.shards.plain import inside, open_hdf5, plain, stored_whole

MOST_PACKING = 1100
"""No filter of HDF5 makes a dataset smaller by more than this: a file that declares more has not got it."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class SamplesFile:
    """What a file of samples holds, without its numbers."""

    path: Path
    count: int
    shape: tuple[int, int]
    num_columns: int
    has_solution: bool
    columns: tuple[str, ...] | None
    """Names of the coefficients, where its attribute ``columns`` gives them."""
    system: str | None

    def read(self, first: int, count: int) -> tuple[Array, Array]:
        """Return fields (count, 1 or 2, ny, nx) and tensor (count, K) from the sample ``first`` on, as float32."""
        rows = slice(first, first + count)
        with _opened(self.path) as file, _reading(self.path):
            fields, tensor = file[FIELDS][rows], file[TENSOR][rows]
        with np.errstate(over="ignore"):  # becomes inf, and is seen
            return fields.astype(np.float32), tensor.astype(np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    with _reading(path):
        file = open_hdf5(path)
    with file:
        yield file


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say what HDF5 finds wrong with a file; around what asks h5py alone, whose errors are of many kinds."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path} is not an HDF5 file that can be read: {' '.join(str(reason).split())}") from None


def open_samples(path: Path, solved: bool = False) -> SamplesFile:
    """Return the facts of a file; with ``solved`` it must be in the paper's layout, (N, 2, n, n).

    Raises UserError where it is not in this layout, or takes its numbers from elsewhere.
    """
    needed = "(N, 2, n, n): source and solution" if solved else "(N, 1 or 2, ny, nx): source and, if known, solution"
    with _opened(path) as file, _reading(path):
        found = {name: _dataset(file, path, name, needed) for name in (FIELDS, TENSOR)}
        shapes = {name: tuple(map(int, dataset.shape)) for name, dataset in found.items()}
        columns, system = _names(file, "columns"), _names(file, "system")
    fields, tensor = shapes[FIELDS], shapes[TENSOR]
    whole = len(fields) == 4 and 0 not in fields and fields[1] in ((2,) if solved else (1, 2))
    if not whole or (solved and fields[2] != fields[3]):
        raise UserError(f"{path}: fields is {fields} but should be {needed}")
    if len(tensor) != 2 or tensor[0] != fields[0]:
        raise UserError(f"{path}: tensor is {tensor} but should be ({fields[0]}, K), one row per sample")
    if columns is not None and len(columns) != tensor[1]:
        raise UserError(f"{path}: its attribute columns names {', '.join(columns)}, but tensor has {tensor[1]} columns")
    return SamplesFile(
        path, fields[0], (fields[2], fields[3]), tensor[1], fields[1] == 2, columns, system[0] if system else None
    )


def _dataset(file: h5py.File, path: Path, name: str, needed: str) -> h5py.Dataset:
    own = "give a file that holds its own numbers"
    link = file.get(name, getlink=True)
    if isinstance(link, (h5py.SoftLink, h5py.ExternalLink)):  # before anything is opened through it
        raise UserError(f"{path}: '{name}' is a link to {getattr(link, 'filename', link.path)}; {own}")
    dataset = None if link is None else file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path} has no dataset '{name}'; needed are fields {needed}, and tensor (N, K)")
    if dataset.shape is None:
        raise UserError(f"{path}: '{name}' is empty; {own}")
    if dataset.dtype.kind not in "iuf":
        raise UserError(f"{path}: '{name}' holds {dataset.dtype}, but should hold real numbers")
    if dataset.external:
        raise UserError(f"{path}: '{name}' is kept in {dataset.external[0][0]}; {own}")
    if dataset.is_virtual:
        if dataset.size > sum(_shown(path, name, source) for source in dataset.virtual_sources()):
            raise UserError(f"{path}: '{name}' declares {dataset.shape}, more than the files it shows hold")
    elif dataset.nbytes > MOST_PACKING * path.stat().st_size:
        raise UserError(
            f"{path}: '{name}' declares {dataset.shape}, more than its {path.stat().st_size:,} bytes can hold"
        )
    if not dataset.is_virtual and not stored_whole(dataset):
        raise UserError(f"{path}: '{name}' was never written; {own}")
    return dataset


def _shown(path: Path, name: str, source: Any) -> int:
    """Return how many numbers a dataset has that a virtual one shows; it must be a plain one, of a file beside it."""
    named = PurePosixPath(source.file_name)
    try:
        if named.is_absolute() or ".." in named.parts:
            raise ValueError("it lies outside of the folder")
        with open_hdf5(path if str(named) == "." else inside(path.parent, source.file_name)) as file:
            return int(plain(file, source.dset_name.lstrip("/")).size)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error.args[0]
        raise UserError(
            f"{path}: '{name}' is kept in {source.file_name}: {' '.join(str(reason).split())}; give another file"
        ) from None


def _names(file: h5py.File, key: str) -> tuple[str, ...] | None:
    """Return the words of an attribute, or None where it has none."""
    value: Any = file.attrs.get(key)
    if value is None or isinstance(value, h5py.Empty):
        return None
    words = np.atleast_1d(value).reshape(-1)
    return tuple(word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in words)


def read_pieces(
    files: list[SamplesFile], first: int, count: int, at_once: int
) -> Iterator[tuple[SamplesFile, int, Array, Array]]:
    """Yield the samples first .. first + count - 1 of files laid end to end, at most ``at_once`` at a time.

    With each piece comes the file and the number of the piece's first sample in it.
    """
    begin = 0
    for file in files:
        low, high = max(first - begin, 0), min(first + count - begin, file.count)
        for at in range(low, high, at_once):
            yield file, at, *file.read(at, min(at_once, high - at))
        begin += file.count
