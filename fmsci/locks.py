"""A file as a lock: who works in a folder holds it, and it says who that is."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TextIO

from fmsci.errors import UserError
from fmsci.files import cannot_write, open_to_append, regular_file
from fmsci.terminal import warn

LOCK = ".lock"
"""In a folder that serves one process at a time: that process holds it. It stays, free, when that ends."""

HOLDER_CHARACTERS = 200
"""The most that is read of what a lock file says about its holder."""

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
"""What a file system says that has no locks."""


@contextmanager
def lock(
    path: Path, refusal: str, patience_s: float = 0.0, tell: Callable[[str], None] = lambda holder: None
) -> Iterator[None]:
    """Hold ``path`` as a lock for the time of the block; it ends with the process, however that ends.

    The file says who holds it. Where another process does, it waits for at most ``patience_s``; ``tell`` hears once
    for whom. Raises UserError, ``refusal`` with the holder's process id and host, where that is not enough, or where
    the file cannot be written, or is a link: what it leads to is not touched. On a file system without locks nothing is
    held, which is told once.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = open_to_append(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    with opened as handle:
        end = time.monotonic() + patience_s
        told = False
        while not _locked_now(handle, path):
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


def _locked_now(handle: TextIO, path: Path) -> bool:
    """Take the lock, or tell that another process has it. Without locks there is nothing to take."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise UserError(f"cannot lock {path}: {error.strerror or error}") from error
        _tell_without_locks(str(path.parent))
    return True


@cache
def _tell_without_locks(folder: str) -> None:
    warn(f"{folder} is on a file system without locks: start nothing twice there, nobody would notice")


def can_lock(path: Path) -> bool:
    """Tell whether the file system of a file has locks."""
    with regular_file(path).open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def is_locked(path: Path) -> bool:
    """Tell whether another process holds ``path`` as a lock (seen on the same host, or where the file system says)."""
    try:
        with regular_file(path).open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
