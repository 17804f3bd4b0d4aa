"""Write a data folder in the HDF5 layout of The Well (PolymathicAI/the_well), version 1.

A sample is a trajectory of one step: the solution is its field, the source a field that does not vary in time, the
coefficients scalars that do not vary in time. With ``WellDataset(path=OUT, well_split_name="train", n_steps_input=0,
n_steps_output=1)`` the source comes as ``constant_fields``, the coefficients as ``constant_scalars``, the solution as
``output_fields``. Axes are (x, y) there: the fields are transposed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from fmsci.errors import UserError
from fmsci.files import taken
from fmsci.shards.manifest import Manifest, ShardRecord, read_manifest
from fmsci.shards.reader import SplitReader, open_split
from fmsci.shards.whole import Check, publish_hdf5

SAMPLES_AT_ONCE = 64


def export_well(folder: Path, output: Path, tell: Callable[[int], None] = lambda done: None) -> Manifest:
    """Write ``OUTPUT/data/{train,valid,test}/shard-00000.hdf5 ...``, one file per shard, and return the folder's
    manifest.

    Raises UserError where the data folder is not usable, or the output is no new folder: whoever reads it takes every
    file there is.
    """
    manifest = read_manifest(folder)
    readers = {split: open_split(folder, split) for split in manifest.splits}  # all, before anything is written
    occupied = taken(output)
    if occupied is not None:
        raise UserError(f"{occupied}; remove it, or give another --output")
    done = 0
    for split, reader in readers.items():
        for shard in manifest.splits[split].shards:
            path = output / "data" / Path(shard.file).with_suffix(".hdf5")
            with publish_hdf5(path) as (file, check):
                _write(file, manifest, reader, shard, check)
            done += shard.count
            tell(done)
    return manifest


def _write(file: h5py.File, manifest: Manifest, reader: SplitReader, shard: ShardRecord, check: Check) -> None:
    n, count = manifest.grid, shard.count
    file.attrs.update(
        dataset_name=manifest.system,
        grid_type="cartesian",
        n_spatial_dims=2,
        n_trajectories=count,
        simulation_parameters=list(manifest.columns),
    )
    for group, names in (("t0_fields", ["solution", "source"]), ("t1_fields", []), ("t2_fields", [])):
        file.create_group(group).attrs["field_names"] = np.array(names, dtype=h5py.string_dtype())
    fixed = {"sample_varying": False, "time_varying": False}
    dimensions = file.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = ["x", "y"]
    for axis in ("x", "y"):
        dimensions.create_dataset(axis, data=(np.arange(n) / n).astype(np.float32)).attrs.update(fixed)
        boundary = file.require_group("boundary_conditions").create_group(f"{axis}_periodic")
        boundary.attrs.update(fixed | {"bc_type": "PERIODIC", "associated_dims": [axis]})
        boundary.attrs["associated_fields"] = np.array([], dtype=h5py.string_dtype())
        ends = np.zeros(n, dtype=bool)
        ends[[0, -1]] = True
        boundary.create_dataset("mask", data=ends)
    dimensions.create_dataset("time", data=np.zeros(1, np.float32)).attrs.update(fixed)
    scalars = file.create_group("scalars")
    scalars.attrs["field_names"] = list(manifest.columns)
    source = file["t0_fields"].create_dataset("source", (count, n, n), np.float32)
    solution = file["t0_fields"].create_dataset("solution", (count, 1, n, n), np.float32)
    source.attrs.update({"dim_varying": [True, True], "sample_varying": True, "time_varying": False})
    solution.attrs.update({"dim_varying": [True, True], "sample_varying": True, "time_varying": True})
    tensors = []
    for begin in range(0, count, SAMPLES_AT_ONCE):
        rows = slice(begin, min(begin + SAMPLES_AT_ONCE, count))
        fields, tensor, _ = reader.gather(np.arange(shard.first + rows.start, shard.first + rows.stop))
        transposed = fields.swapaxes(2, 3)
        source[rows], solution[rows] = transposed[:, 0], transposed[:, 1:]
        tensors.append(tensor)
        check()
    for name, values in zip(manifest.columns, np.concatenate(tensors).T, strict=True):
        scalars.create_dataset(name, data=values).attrs.update({"sample_varying": True, "time_varying": False})
