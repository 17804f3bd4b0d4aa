"""Publish a file or a folder whole or not at all: write aside, sync, rename."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fmsci.errors import UserError

ASIDE_PREFIX = ".aside-"
"""Names that start so are unfinished work; nobody reads them and the next writer may remove them."""


def aside(path: Path) -> Path:
    """Return a name beside ``path`` for writing it, unique to this process on this host."""
    return path.parent / f"{ASIDE_PREFIX}{path.name}-{socket.gethostname()}-{os.getpid()}"


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to storage."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def publish_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write; on leaving without an error it is synced and becomes ``path`` at once.

    Raises UserError where the folder cannot be written.
    """
    temporary = aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free or change the place and repeat"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on leaving without an error its files are synced and it becomes ``path``.

    A folder already at ``path`` is replaced. Raises UserError where the place cannot be written.
    """
    temporary = aside(path)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for item in sorted(temporary.rglob("*")):
            sync(item)
        sync(temporary)
        if path.exists():
            replaced = aside(path.with_name(path.name + "-replaced"))
            shutil.rmtree(replaced, ignore_errors=True)
            path.replace(replaced)
            temporary.replace(path)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free or change the place and repeat"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Publish ``text`` as the file ``path``."""
    with publish_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Publish ``value`` as indented JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the parsed content of a JSON file; UserError where it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
