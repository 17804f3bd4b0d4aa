"""Publish a file or a folder whole or not at all: write aside, sync, rename."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from fmsci.errors import UserError

ASIDE_PREFIX = ".aside-"
"""Names that start so are unfinished work; nobody reads them and the next writer may remove them."""

HOLDER_CHARACTERS = 200
"""The most that is read of what a lock file says about its holder."""


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
        discard(temporary)


@contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on leaving without an error its files are synced and it becomes ``path``.

    A folder already at ``path`` is replaced: readers find the old one or the new one. (Where the file system cannot
    exchange two names, as on NFS and Lustre, they find none for the moment between two renames.)
    Raises UserError where the place cannot be written.
    """
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
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free or change the place and repeat"
        ) from error
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


def taken(folder: Path, but: Sequence[str] = ()) -> str | None:
    """Say what keeps a folder from being a new one: it is a file, or it holds more than ``but`` (patterns) and hidden
    files."""
    if folder.exists() and not folder.is_dir():
        return f"{folder} is a file, not a folder"
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        if not path.name.startswith(".") and not any(path.match(pattern) for pattern in but):
            return f"{folder} is no new folder: it holds {path.name}"
    return None


@contextmanager
def lock(
    path: Path, refusal: str, patience_s: float = 0.0, tell: Callable[[str], None] = lambda holder: None
) -> Iterator[None]:
    """Hold ``path`` as a lock for the time of the block; it ends with the process, however that ends.

    The file says who holds it. Where another process does, it waits for at most ``patience_s``; ``tell`` hears once
    for whom. Raises UserError, ``refusal`` with the holder's process id and host, where that is not enough, or where
    the file cannot be written. On a file system without locks nothing is held.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free or change the place and repeat"
        ) from error
    with opened as handle:
        end = time.monotonic() + patience_s
        told = False
        while not _locked_now(handle):
            handle.seek(0)
            holder = handle.read(HOLDER_CHARACTERS).strip() or "it"  # it has not written its name yet
            if time.monotonic() >= end:
                raise UserError(f"{refusal}, wait for {holder}, or stop it")
            if not told:
                tell(holder)
            told = True
            time.sleep(min(1.0, patience_s / 10))
        try:
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            handle.flush()
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}; free some space and repeat") from error
        yield


def _locked_now(handle: TextIO) -> bool:
    """Take the lock, or tell that another process has it. Without locks there is nothing to take."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}:
            raise
    return True


def can_lock(path: Path) -> bool:
    """Tell whether the file system of a file has locks."""
    with path.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def is_locked(path: Path) -> bool:
    """Tell whether another process holds ``path`` as a lock (seen on the same host, or where the file system says)."""
    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def write_text(path: Path, text: str) -> None:
    """Publish ``text`` as the file ``path``."""
    with publish_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Publish ``value`` as indented JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the parsed content of a JSON file; UserError where it is missing, is not JSON, or says a thing twice."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_once)
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


def last_entries(path: Path, num_bytes: int = 1 << 16) -> list[dict[str, Any]]:
    """Return the last whole entries of a file of JSON lines that may be growing; none where there is no file."""
    if not path.exists():
        return []
    with path.open("rb") as stream:
        start = max(0, path.stat().st_size - num_bytes)
        stream.seek(start)
        lines = stream.read().split(b"\n")[:-1]  # what follows the last newline is still being written
    return [json.loads(line) for line in lines[start > 0 :]]  # and the first may be the end of a line
