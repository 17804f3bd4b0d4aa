"""Is the output folder a place for these data: nothing else in it, and room for what is still to be written?"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np

from fmsci.errors import UserError
from fmsci.files import taken
from fmsci.generate.plan import Request, Task
from fmsci.shards.layout import MANIFEST, PLAN, SPLITS
from fmsci.terminal import amount

SHARD_BYTES = 16384
"""What a shard holds beside its samples: its header, and HDF5's own structures."""


def check_place(folder: Path, request: Request) -> None:
    """Raise UserError where the folder is a file, holds something else, or its file system is too small.

    Looks only at what is there: nothing of the size of the request is made.
    """
    if not (folder / PLAN).exists() and not (folder / MANIFEST).exists():
        held = taken(folder)
        if held is not None:
            raise UserError(f"{held}; give another output folder")
    there = sum(path.stat().st_size + SHARD_BYTES for split in SPLITS for path in folder.glob(f"{split}/*.h5"))
    needed = num_bytes(request) - there
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{folder} needs {amount(needed)} more, its file system has {amount(free)} free; make fewer samples or a "
            "smaller grid, free the space, or give another output folder"
        )


def num_bytes(request: Request) -> int:
    """Return about how many bytes the shards of a request have, at most."""
    one = request.layout(Task(SPLITS[0], 0, 0, 1))
    row = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in one.datasets().values())
    table = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in one.tables.values())
    shards = sum(-(-count // request.shard_samples) for count in request.counts.values())
    return sum(request.counts.values()) * (row - table) + shards * (SHARD_BYTES + table)
