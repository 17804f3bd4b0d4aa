"""An HDF5 file that is there whole or not at all, also where the disk is full."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from fmsci.files import publish_file

Check = Callable[[], None]
"""Raises OSError where something could not be written so far."""


class _Disk(io.FileIO):
    """A file that never fails to be written for HDF5: the first error is kept, what comes after it is dropped.

    HDF5 keeps what it could not write and tries again whenever it is let go of, at last where the process ends, which
    it then does with a segmentation fault.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all, or keep why not."""
        content = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(content) and self.error is None:
                done += super().write(content[done:])
        except OSError as error:
            self.error = error
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        """Set the size, or keep why not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def readinto(self, buffer: Any) -> int:
        """Read all that is asked for: zeros where nothing was written."""
        room = memoryview(buffer).cast("B")
        found = super().readinto(room) or 0
        room[found:] = bytes(len(room) - found)
        return len(room)

    def check(self) -> None:
        """Raise the first error."""
        if self.error is not None:
            raise self.error


@contextmanager
def publish_hdf5(
    path: Path, userblock_bytes: int = 0, finish: Callable[[Path], object] = lambda path: None
) -> Iterator[tuple[h5py.File, Check]]:
    """Yield an HDF5 file to fill, and a check of what is written so far; it becomes ``path`` at the end of the block.

    A long block calls the check now and then: what cannot be written is known at once, but told by it alone.
    ``finish`` is called with the closed file before it gets its name.
    Raises UserError where the place cannot be written, or is full.
    """
    with publish_file(path) as temporary:
        with _Disk(temporary, "w+") as disk:
            with h5py.File(disk, "w", userblock_size=userblock_bytes) as file:
                yield file, disk.check
            disk.check()
        finish(temporary)
