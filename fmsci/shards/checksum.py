"""The first line of every file of a data folder: the checksum of all that follows, read before HDF5 opens anything."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from fmsci.files import regular_file
from fmsci.shards.layout import HEADER_BYTES

PIECE_BYTES = 1 << 22
"""Files are read in pieces of this size."""

_HEADER = re.compile(rb"fmsci shard, HDF5 from byte \d+, (crc32:[0-9a-f]{8})\n")


def header(checksum: str) -> bytes:
    """Return the first bytes of a file: a line for people and programs, then zeros."""
    return f"fmsci shard, HDF5 from byte {HEADER_BYTES}, {checksum}\n".encode().ljust(HEADER_BYTES, b"\0")


def verify_checksum(path: Path) -> str | None:
    """Return the checksum that a file's first line names if the rest of the file has it, else None."""
    with regular_file(path).open("rb") as file:
        first = file.read(HEADER_BYTES)
        match = _HEADER.match(first)
        if match is None or first != header(match.group(1).decode()):
            return None
        checksum = 0
        while piece := file.read(PIECE_BYTES):
            checksum = zlib.crc32(piece, checksum)
    named = match.group(1).decode()
    return named if named == f"crc32:{checksum:08x}" else None


def write_checksum(path: Path) -> None:
    """Write the first line of a small file that is otherwise finished."""
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES)
        checksum = zlib.crc32(file.read())
        file.seek(0)
        file.write(header(f"crc32:{checksum:08x}"))
