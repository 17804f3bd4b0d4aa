"""One HDF5 file of samples from anywhere, in; one of predictions, out. For ``fmsci predict``.

In: ``fields (N, 1 or 2, ny, nx)``, source and, where it is known, solution, and ``tensor (N, K)``, as in the paper's
files and in a shard; the attribute ``columns`` names the K coefficients, ``system`` their equation. Out: see
:func:`write_predictions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fmsci import __version__
from fmsci.errors import UserError
from fmsci.files import publish_file
from fmsci.shards.layout import FIELDS, TENSOR

PREDICTION, ERROR = "prediction", "rel_l2"
MOST_PACKING = 1100
"""No filter of HDF5 makes a dataset smaller by more than this: a file that declares more has not got it."""

Array = NDArray[np.float32]
Write = Callable[[int, Array, "Array | None"], None]


@dataclass(frozen=True)
class SamplesFile:
    """What a file of samples holds, without its numbers."""

    path: Path
    count: int
    shape: tuple[int, int]
    num_columns: int
    has_solution: bool
    columns: tuple[str, ...] | None
    system: str | None

    def read(self, first: int, count: int) -> tuple[Array, Array]:
        """Return fields (count, 1 or 2, ny, nx) and tensor (count, K) from the sample ``first`` on, as float32."""
        rows = slice(first, first + count)
        with _opened(self.path) as file:
            return file[FIELDS][rows].astype(np.float32), file[TENSOR][rows].astype(np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, KeyError) as error:
        raise UserError(f"{path} is not an HDF5 file that can be read: {' '.join(str(error).split())}") from None


def open_samples(path: Path) -> SamplesFile:
    """Return the facts of a file; UserError where it is not in this layout, or takes its numbers from elsewhere."""
    with _opened(path) as file:
        found = {name: _dataset(file, path, name) for name in (FIELDS, TENSOR)}
        shapes = {name: tuple(map(int, dataset.shape)) for name, dataset in found.items()}
        columns, system = _names(file.attrs.get("columns")), _names(file.attrs.get("system"))
    fields, tensor = shapes[FIELDS], shapes[TENSOR]
    if len(fields) != 4 or fields[1] not in (1, 2) or 0 in fields:
        raise UserError(f"{path}: fields is {fields} but should be (N, 1 or 2, ny, nx): source and, if known, solution")
    if len(tensor) != 2 or tensor[0] != fields[0]:
        raise UserError(f"{path}: tensor is {tensor} but should be ({fields[0]}, K), one row per sample")
    if columns is not None and len(columns) != tensor[1]:
        raise UserError(f"{path}: its attribute columns names {', '.join(columns)}, but tensor has {tensor[1]} columns")
    return SamplesFile(
        path, fields[0], (fields[2], fields[3]), tensor[1], fields[1] == 2, columns, system[0] if system else None
    )


def _dataset(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path} has no dataset '{name}'; needed are fields (N, 1 or 2, ny, nx) and tensor (N, K)")
    own = "give a file that holds its own numbers"
    if dataset.file.filename != file.filename:
        raise UserError(f"{path}: '{name}' is a link to {dataset.file.filename}; {own}")
    if dataset.dtype.kind not in "iuf":
        raise UserError(f"{path}: '{name}' holds {dataset.dtype}, but should hold real numbers")
    if dataset.external:
        raise UserError(f"{path}: '{name}' is kept in {dataset.external[0][0]}; {own}")
    if dataset.is_virtual:
        for source in dataset.virtual_sources():
            inside = PurePosixPath(source.file_name)
            if inside.is_absolute() or ".." in inside.parts:
                raise UserError(f"{path}: '{name}' is kept in {inside}, outside of its folder; give another file")
    elif dataset.nbytes > MOST_PACKING * path.stat().st_size:
        raise UserError(
            f"{path}: '{name}' declares {dataset.shape}, more than its {path.stat().st_size:,} bytes can hold"
        )
    return dataset


def _names(value: Any) -> tuple[str, ...] | None:
    """Return the words of an attribute, or None where it has none."""
    if value is None or isinstance(value, h5py.Empty):
        return None
    words = np.atleast_1d(value).reshape(-1)
    return tuple(word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in words)


@contextmanager
def write_predictions(
    path: Path, count: int, shape: tuple[int, int], columns: Sequence[str], with_error: bool, facts: dict[str, str]
) -> Iterator[Write]:
    """Yield a function that writes predictions (B, ny, nx) and errors (B,) from a sample on; publish at the end.

    The file has ``prediction (N, ny, nx)`` float32, in the order of the samples, ``rel_l2 (N,)`` where there is a
    truth, and ``facts`` as attributes. Raises UserError where it cannot be written.
    """
    with publish_file(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        file.attrs.update({"columns": list(columns), "code_version": __version__, **facts})
        prediction = file.create_dataset(PREDICTION, (count, *shape), "<f4")
        errors = file.create_dataset(ERROR, (count,), "<f4") if with_error else None

        def write(first: int, values: Array, rel_l2: Array | None) -> None:
            prediction[first : first + len(values)] = values
            if errors is not None:
                errors[first : first + len(values)] = rel_l2

        yield write
