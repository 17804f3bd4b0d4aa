"""Publish a file or a folder whole or not at all: write aside, sync, rename. Read what others put there, without
waiting for a pipe, and append to no file elsewhere."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from fmsci.errors import ArgumentError, UserError

ASIDE_PREFIX = ".aside-"
"""Names that start so are unfinished work; nobody reads them and the next writer may remove them."""

LARGEST_JSON = 1 << 26
"""The most bytes of a JSON file: a manifest of some 400,000 shards. Others need a thousandth of it."""


def as_path(given: Any, what: str) -> Path:
    """Return a path that a user of the library gives; ArgumentError, with ``what`` it is of, where it can be none."""
    try:
        path = Path(given)
    except TypeError:
        raise ArgumentError(f"{what} should be a path, not {type(given).__name__}") from None
    if "\0" in str(path):
        raise ArgumentError(f"{what} should be a path, but {str(path)!r} holds a zero byte")
    return path


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


def cannot_write(path: Path, error: OSError) -> UserError:
    """Return the sentence about a place that takes nothing."""
    return UserError(f"cannot write {path}: {error.strerror or error}; free or change the place and repeat")


def check_place(path: Path) -> None:
    """Raise UserError where a file cannot become ``path``: a folder, or a pipe or a device, which it would replace."""
    try:
        with suppress(FileNotFoundError):
            regular_file(path)
    except OSError as error:
        raise cannot_write(path, error) from error


def picture_beside(result: Path, ending: str) -> Path:
    """Return where the picture of a result file lies: beside it, under its name. ``ending`` is one that the result
    could have.

    Raises UserError where one of the two has no place (:func:`check_place`), or both would be one file.
    """
    check_place(result)  # what has no name is a folder
    picture = result.with_suffix(".png")
    if picture == result:
        raise UserError(f"{result} is the name of the picture too; give the result another ending, such as {ending}")
    check_place(picture)
    return picture


@contextmanager
def publish_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write; on leaving without an error it is synced and becomes ``path`` at once.

    Raises UserError where the folder cannot be written, or ``path`` is no place for a file (:func:`check_place`).
    """
    check_place(path)
    temporary = aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        discard(temporary)


@contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on leaving without an error its files are synced and it becomes ``path``.

    A folder already at ``path`` is replaced: readers find the old one or the new one. (Where the file system cannot
    exchange two names, as on NFS and Lustre, they find none for the moment between two renames.)
    Raises UserError where the place cannot be written, or is named as ``.`` or ``..``: who stands in a folder that is
    replaced stands in none.
    """
    if path.name in {"", ".."}:
        raise UserError(f"{path} is no name for a new folder; write it out, such as {Path('models') / 'name'}")
    temporary = aside(path)
    try:
        discard(temporary)
        temporary.mkdir(parents=True)
        yield temporary
        for item in sorted(temporary.rglob("*")):
            sync(item)
        sync(temporary)
        if not os.path.lexists(path):
            temporary.replace(path)
        elif not path.is_dir():
            raise NotADirectoryError("there is a file of that name")
        elif not exchange(temporary, path):
            replaced = aside(path.with_name(path.name + "-replaced"))
            discard(replaced)
            path.replace(replaced)
            temporary.replace(path)
            discard(replaced)
        sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        discard(temporary)


def exchange(first: Path, second: Path) -> bool:
    """Let two existing names change places at once (Linux's renameat2); False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange_names = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2 is not None and renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange_names) == 0


def discard(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be removed."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def taken(folder: Path, but: Sequence[str] = (), replaced: bool = False) -> str | None:
    """Say what keeps a folder from being a new one: it is a file, or it holds more than ``but`` (patterns) and hidden
    files. Of one that will be ``replaced`` as a whole (:func:`publish_folder`) hidden files would be lost, so they
    count too, but for unfinished work."""
    ignored = ASIDE_PREFIX if replaced else "."
    if folder.exists() and not folder.is_dir():
        return f"{folder} is a file, not a folder"
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        if not path.name.startswith(ignored) and not any(path.match(pattern) for pattern in but):
            return f"{folder} is no new folder: it holds {path.name}"
    return None


def write_text(path: Path, text: str) -> None:
    """Publish ``text`` as the file ``path``."""
    with publish_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Publish ``value`` as indented JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def regular_file(path: Path) -> Path:
    """Return ``path`` where it is a file, or a link to one: opening a pipe would wait until somebody writes into it.

    Raises OSError, as opening it would: where there is nothing, or a folder, a pipe or a device.
    """
    _check_regular(path.stat().st_mode, path)
    return path


def _check_regular(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.ENXIO, "it is a pipe or a device, not a file", str(path))


def open_to_append(path: Path) -> TextIO:
    """Open a file, new or old, to read it and to write at its end.

    Raises OSError where that cannot be, also where ``path`` is a link: what is written is to be in this folder.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP or not path.is_symlink():
            raise
        raise OSError(errno.ELOOP, "it is a symbolic link to another place", str(path)) from None
    try:
        _check_regular(os.fstat(handle).st_mode, path)
        return os.fdopen(handle, "a+", encoding="utf-8")
    except OSError:
        os.close(handle)
        raise


def read_json(path: Path) -> Any:
    """Return the parsed content of a JSON file; UserError where it is missing, is not JSON, is far too large for one of
    fmsci's, or says a thing twice."""
    try:
        with regular_file(path).open("rb") as stream:
            content = stream.read(LARGEST_JSON + 1)
        if len(content) > LARGEST_JSON:
            raise UserError(f"{path} has more than {LARGEST_JSON:,} bytes, far more than it needs; do not use it")
        return json.loads(content.decode(), object_pairs_hook=_each_once)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; plain JSON silently keeps the last of two keys of one name."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r:.60} is given twice")
    return found
