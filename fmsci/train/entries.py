"""The entries of a run, ``metrics.jsonl``, as others read them while it grows. No torch: they are read often."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from fmsci.errors import UserError
from fmsci.files import regular_file

METRICS = "metrics.jsonl"
"""In a run folder: a JSON line for each entry."""

BLOCK_BYTES = 1 << 20
"""So much of a file is in memory at a time: that of weeks has gigabytes."""


def each_entry(path: Path, holding: bytes = b"") -> Iterator[dict[str, Any]]:
    """Yield the whole entries of a file of JSON lines whose text holds some bytes; see :func:`last_entries`."""
    try:
        with regular_file(path).open("rb") as stream:
            for lines in whole_lines(stream):
                wanted = [line for line in lines.split(b"\n") if holding in line] if holding else [lines]
                yield from entries_of(b"\n".join(wanted))
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(path, error) from None


def whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield what is left of a file in pieces of whole lines; what follows the last of them is still being written."""
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if newline:
            yield whole + newline


def end_of_step(stream: BinaryIO, step: int) -> int:
    """Return where the entries up to a step end: behind the last line that is one; 0 where there is none.

    It is looked for from the end of the file on, as only what follows a run's last checkpoint lies behind it.
    """
    start, rest = stream.seek(0, os.SEEK_END), b""
    while start:
        size = min(start, BLOCK_BYTES)
        start = stream.seek(start - size)
        block = stream.read(size) + rest
        first = block.find(b"\n") + 1 if start else 0  # what is before may be the end of a line
        end = block.rfind(b"\n") + 1
        for line in reversed(block[first:end].splitlines(keepends=True)):
            if any(entry["step"] <= step for entry in entries_of(line)):
                return start + end
            end -= len(line)
        rest = block[:first] if first else block
    return 0


def last_entries(path: Path, num_bytes: int = 1 << 16) -> list[dict[str, Any]]:
    """Return the last whole entries of a file of JSON lines that may be growing; none where there is no file.

    Raises UserError where it cannot be read. See :func:`entries_of` for lines that are no entries.
    """
    try:
        with regular_file(path).open("rb") as stream:
            start = max(0, path.stat().st_size - num_bytes)
            stream.seek(start)
            whole, newline, _ = stream.read().rpartition(b"\n")  # what follows is still being written
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(path, error) from None
    if start:  # the first may be the end of a line
        whole = whole.partition(b"\n")[2]
    return entries_of(whole + newline)


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read: {error.strerror or error}")


def entries_of(lines: bytes) -> list[dict[str, Any]]:
    """Return the entries of a run's metrics, in JSON lines; each has its ``step``.

    What is no entry is left out: after a power loss a file can end in zeros, or in half a line that the next start
    went on behind.
    """
    found = []
    for line in lines.split(b"\n"):
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get("step"), int) and all(map(_is_number, entry.values())):
                found.append(entry)
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)
