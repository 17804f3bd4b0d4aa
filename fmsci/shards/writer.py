"""Write one shard: contiguous HDF5 datasets, streamed, with a checksum of the whole file, published at once.

h5py lays the file out (all datasets allocated early, nothing filled), then the samples are written straight to their
places. That spares HDF5's own copying, keeps only one batch in memory, and lets the checksum run along with the
writing.
"""

from __future__ import annotations

import math
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fmsci.errors import UserError
from fmsci.files import publish_file
from fmsci.shards.checksum import PIECE_BYTES, header
from fmsci.shards.layout import FIELDS, HEADER_BYTES, SAMPLE_ID, ShardLayout
from fmsci.shards.manifest import ShardRecord

Array = NDArray[Any]

MEMORY = "/dev/shm"
"""Files here are in memory; a system without it takes its folder of temporary files."""


class ShardWriter:
    """Takes a shard's samples in order: ``append`` until all are there, ``finish``, then ``publish`` or ``discard``.

    Publishing waits for the disk and can be left to another thread. :func:`open_shard` does all in its place.
    """

    def __init__(self, folder: Path, layout: ShardLayout) -> None:
        """Create the file beside its place, with all its datasets; UserError where the folder cannot be written."""
        self.layout = layout
        self._publishing = publish_file(folder / layout.file)
        path = self._publishing.__enter__()
        try:
            self._begin(path)
        except BaseException as error:
            self._publishing.__exit__(type(error), error, error.__traceback__)
            raise

    def _begin(self, path: Path) -> None:
        layout = self.layout
        self._datasets = layout.datasets()
        self._handle, self._offsets = _lay_out(path, layout)
        self._small = {
            name: np.empty(shape, dtype) for name, (shape, dtype) in self._datasets.items() if name != FIELDS
        }
        self._checksum = zlib.crc32(os.pread(self._handle, self._offsets[FIELDS] - HEADER_BYTES, HEADER_BYTES))
        self._next_byte = self._offsets[FIELDS]
        self.done = 0

    def append(self, fields: NDArray[np.float32], rows: Mapping[str, Array]) -> None:
        """Write the next B samples: fields (B, 2, n, n) and (B, ...) of every other per-sample dataset except
        sample_id."""
        count = len(fields)
        content = np.ascontiguousarray(fields, dtype="<f4").reshape(-1).view(np.uint8)
        for name, values in rows.items():
            self._small[name][self.done : self.done + count] = values
        self._write(content)
        self.done += count

    def finish(self, tables: Mapping[str, Array] | None = None) -> ShardRecord:
        """Write the small datasets, those that are not per sample given here, and the checksum line.

        Raises ValueError where samples are missing.
        """
        if self.done != self.layout.count:
            raise ValueError(f"{self.layout.file} has {self.done} of {self.layout.count} samples")
        self._small[SAMPLE_ID][:] = np.arange(self.layout.first, self.layout.first + self.layout.count)
        for name, values in (tables or {}).items():
            self._small[name][:] = values
        for name, values in self._small.items():
            _write_all(self._handle, values.reshape(-1).view(np.uint8), self._offsets[name])
        size = os.fstat(self._handle).st_size
        while self._next_byte < size:  # what follows the fields: small datasets and HDF5's own records
            piece = os.pread(self._handle, min(PIECE_BYTES, size - self._next_byte), self._next_byte)
            self._checksum = zlib.crc32(piece, self._checksum)
            self._next_byte += len(piece)
        checksum = f"crc32:{self._checksum:08x}"
        _write_all(self._handle, np.frombuffer(header(checksum), np.uint8), 0)
        return ShardRecord(
            file=self.layout.file, first=self.layout.first, count=self.layout.count, bytes=size, checksum=checksum
        )

    def publish(self) -> None:
        """Wait until the file is on the disk and give it its name; UserError where the disk fails."""
        os.close(self._handle)
        self._publishing.__exit__(None, None, None)

    def discard(self, error: BaseException) -> None:
        """Remove the file because of ``error``; an OSError comes back as a UserError."""
        os.close(self._handle)
        self._publishing.__exit__(type(error), error, error.__traceback__)

    def _write(self, content: NDArray[np.uint8]) -> None:
        self._checksum = zlib.crc32(content.data, self._checksum)
        _write_all(self._handle, content, self._next_byte)
        self._next_byte += len(content)


@contextmanager
def open_shard(folder: Path, layout: ShardLayout) -> Iterator[ShardWriter]:
    """Yield a writer; the shard appears in the data folder when the block ends without an error.

    Raises UserError where the folder cannot be written or is full.
    """
    writer = ShardWriter(folder, layout)
    try:
        yield writer
    except BaseException as error:
        writer.discard(error)
        raise
    writer.publish()


def _lay_out(path: Path, layout: ShardLayout) -> tuple[int, dict[str, int]]:
    """Create the file with all its datasets allocated; return its handle and where each begins, the fields first.

    HDF5 does it in memory, where the datasets are holes, and what it wrote is copied: on a full disk HDF5 leaves errors
    behind that are no OSError, some of them when it is let go of.
    """
    shape, dtype = layout.datasets()[FIELDS]
    scratch, offsets = _in_memory(layout)
    try:
        fields_end = offsets[FIELDS] + math.prod(shape) * np.dtype(dtype).itemsize
        size = os.fstat(scratch).st_size
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            os.ftruncate(handle, size)
            for begin, end in ((0, offsets[FIELDS]), (fields_end, size)):
                _write_all(handle, np.frombuffer(os.pread(scratch, end - begin, begin), np.uint8), begin)
        except BaseException:
            os.close(handle)
            raise
    finally:
        os.close(scratch)
    return handle, offsets


def _in_memory(layout: ShardLayout) -> tuple[int, dict[str, int]]:
    """Let HDF5 allocate all datasets; return a handle of what it wrote and where each begins.

    A file without a name, where the system has such: it goes with this process, however that ends. Else one whose name
    goes as soon as HDF5 has opened it.
    """
    with suppress(OSError, AttributeError, RuntimeError):  # Linux alone has it; /proc may be hidden, or memory full
        scratch = os.memfd_create("fmsci-shard")
        try:
            # HDF5's usual driver asks what a link leads to, and finds that this one leads to no name. Equal bytes.
            return scratch, _by_hdf5(f"/proc/self/fd/{scratch}", layout, driver="stdio")
        except BaseException:
            os.close(scratch)
            raise
    scratch, place = tempfile.mkstemp(dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
    try:
        return scratch, _by_hdf5(place, layout, opened=Path(place).unlink)
    except BaseException:
        os.close(scratch)
        Path(place).unlink(missing_ok=True)
        raise


def _by_hdf5(
    path: str, layout: ShardLayout, driver: str | None = None, opened: Callable[[], None] = lambda: None
) -> dict[str, int]:
    """Let HDF5 allocate all datasets in a file; return where each begins. ``opened`` is called once it is open."""
    with h5py.File(path, "w", driver=driver, userblock_size=HEADER_BYTES, locking=False) as file:
        opened()
        for key, value in layout.attributes.items():
            file.attrs[key] = value
        for name, (shape, dtype) in layout.datasets().items():
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_layout(h5py.h5d.CONTIGUOUS)
            properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            properties.set_obj_track_times(False)  # equal data are equal bytes, whenever they were made
            space = h5py.h5s.create_simple(shape)
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, properties)
        file.flush()
        offsets = {name: int(file[name].id.get_offset()) for name in layout.datasets()}
    if min(offsets.values()) != offsets[FIELDS]:
        raise RuntimeError(f"HDF5 {h5py.version.hdf5_version} does not put the first dataset first: {offsets}")
    return offsets


def _write_all(handle: int, content: NDArray[np.uint8], offset: int) -> None:
    """Write every byte: one system call may take fewer, at 2 GiB or on a full disk."""
    done = 0
    while done < len(content):
        written = os.pwrite(handle, content[done:].data, offset + done)
        if written == 0:
            raise UserError("the disk takes no more data")
        done += written
