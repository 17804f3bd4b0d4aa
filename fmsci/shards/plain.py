"""Is a shard what it seems? HDF5 can show data of other files, and declare what nobody wrote; a shard does neither."""

from __future__ import annotations

import stat
from math import prod
from pathlib import Path

import h5py
import numpy as np

from fmsci.files import regular_file


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading; OSError where it is none. HDF5's own locks are left off: Lustre has none."""
    return h5py.File(regular_file(path), "r", locking=False)


def inside(folder: Path, file: str) -> Path:
    """Return the path of a file of a data folder.

    Raises ValueError where it is no file of that folder: a name or a symbolic link that leads out of it, a pipe, a
    device. (The folder itself may be a link.) Raises FileNotFoundError where it is missing.
    """
    path = folder / file
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError("it lies outside of the folder; put a copy in its place")
    return path


def plain(file: h5py.File, name: str, shape: tuple[int, ...] | None = None, dtype: str | None = None) -> h5py.Dataset:
    """Return a dataset that is stored in this very file, whole, of the shape and number type that it should have.

    Raises KeyError where there is none of that name, ValueError where it is another one. What a file declares is so
    held against what it holds before any memory is taken for it.
    """
    link = file.get(name, getlink=True)
    if link is None:
        raise KeyError(f"the dataset {name} is missing")
    if not isinstance(link, h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        raise ValueError(f"{name} is no dataset of this file but a link or a group")
    dataset = file[name]
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"the dataset {name} is stored in another file")
    if shape is not None and dataset.shape != shape:
        raise ValueError(
            f"the dataset {name} is {dataset.shape} {dataset.dtype} instead of {shape} {dtype or ''}".rstrip()
        )
    if dtype is not None and dataset.dtype != np.dtype(dtype):
        raise ValueError(f"the dataset {name} is {dataset.shape} {dataset.dtype} instead of {dataset.shape} {dtype}")
    if not stored_whole(dataset):
        raise ValueError(f"the dataset {name} was never written")
    return dataset


def stored_whole(dataset: h5py.Dataset) -> bool:
    """Tell whether all that a dataset declares has a place in the file; HDF5 reads zeros where it has none."""
    if dataset.shape is None:
        return False
    if not dataset.size:
        return True
    if dataset.chunks is None:
        return bool(dataset.id.get_storage_size() == dataset.size * dataset.dtype.itemsize)
    chunks = prod(-(-length // piece) for length, piece in zip(dataset.shape, dataset.chunks, strict=True))
    return bool(dataset.id.get_num_chunks() == chunks)
