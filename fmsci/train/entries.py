"""The entries of a run, ``metrics.jsonl``, as others read them while it grows. No torch: they are read often."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from fmsci.errors import UserError
from fmsci.files import regular_file

METRICS = "metrics.jsonl"
"""In a run folder: a JSON line for each entry."""


def all_entries(path: Path) -> list[dict[str, Any]]:
    """Return all whole entries of a file of JSON lines; see :func:`last_entries`."""
    return last_entries(path, sys.maxsize)


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
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if start:  # the first may be the end of a line
        whole = whole.partition(b"\n")[2]
    return entries_of(whole + newline)


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
