"""Tell whether a shard is whole and is the one that was asked for."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import h5py
import numpy as np

from fmsci.shards.layout import HEADER_BYTES, ShardLayout
from fmsci.shards.manifest import ShardRecord
from fmsci.shards.writer import PIECE_BYTES, header

_HEADER = re.compile(rb"fmsci shard, HDF5 from byte \d+, (crc32:[0-9a-f]{8})\n")


def inspect_shard(folder: Path, layout: ShardLayout) -> ShardRecord | str:
    """Return the record of a shard, or a sentence saying why it does not serve.

    Reads every byte: the checksum in the file's first line must be the one of what follows, and the datasets and
    attributes must be those of ``layout``.
    """
    path = folder / layout.file
    try:
        size = path.stat().st_size
        found = verify_checksum(path)
        if found is None:
            return "its content does not belong to its checksum"
        wrong = _differs(path, layout)
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read ({error})"
    if wrong is not None:
        return wrong
    return ShardRecord(file=layout.file, first=layout.first, count=layout.count, bytes=size, checksum=found)


def verify_checksum(path: Path) -> str | None:
    """Return the checksum that a shard's first line names if the rest of the file has it, else None."""
    with path.open("rb") as file:
        first = file.read(HEADER_BYTES)
        match = _HEADER.match(first)
        if match is None or first != header(match.group(1).decode()):
            return None
        checksum = 0
        while piece := file.read(PIECE_BYTES):
            checksum = zlib.crc32(piece, checksum)
    named = match.group(1).decode()
    return named if named == f"crc32:{checksum:08x}" else None


def _differs(path: Path, layout: ShardLayout) -> str | None:
    """Return how a shard's datasets or attributes differ from the layout, or None."""
    with h5py.File(path, "r", locking=False) as file:
        for name, (shape, dtype) in layout.datasets().items():
            if name not in file:
                return f"the dataset {name} is missing"
            if file[name].shape != shape or file[name].dtype != np.dtype(dtype):
                return f"the dataset {name} is {file[name].shape} {file[name].dtype} instead of {shape} {dtype}"
        for key, wanted in layout.attributes.items():
            if key not in file.attrs:
                return f"the attribute {key} is missing"
            given = file.attrs[key]
            if key != "code_version" and not np.array_equal(given, wanted):
                return f"the attribute {key} is {given} instead of {wanted}"
    return None
