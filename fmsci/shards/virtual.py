"""One file per split that shows all its shards as one: HDF5 virtual datasets, no data of their own."""

from __future__ import annotations

from pathlib import Path

import h5py

from fmsci.shards.checksum import verify_checksum, write_checksum
from fmsci.shards.layout import ACCEPTANCE, FIELDS, HEADER_BYTES, split_name
from fmsci.shards.manifest import Manifest, SplitRecord
from fmsci.shards.plain import open_hdf5
from fmsci.shards.whole import publish_hdf5


def write_virtual(folder: Path, manifest: Manifest) -> None:
    """Publish ``train.h5``, ``valid.h5`` and ``test.h5``: every dataset of the shards, N samples long.

    The shards are named relative to the file, so that the data folder can be moved as a whole.
    """
    for split, record in manifest.splits.items():
        with (
            open_hdf5(folder / record.shards[0].file) as first,
            publish_hdf5(folder / split_name(split), HEADER_BYTES, finish=write_checksum) as (file, _),
        ):
            for name, dataset in first.items():
                if name != ACCEPTANCE:
                    _show(file, name, dataset, record)
            file.attrs.update({key: value for key, value in first.attrs.items() if key != "first"})


def _show(file: h5py.File, name: str, like: h5py.Dataset, record: SplitRecord) -> None:
    """Create one virtual dataset over all shards of a split; ``like`` has the shape and type of its samples."""
    sample = like.shape[1:]
    whole = h5py.h5s.create_simple((record.count, *sample))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)  # equal data are equal bytes, whenever they were made
    for shard in record.shards:
        target = whole.copy()
        target.select_hyperslab((shard.first, *(0 for _ in sample)), (shard.count, *sample))
        source = h5py.h5s.create_simple((shard.count, *sample))
        properties.set_virtual(target, shard.file.encode(), name.encode(), source)
    h5py.h5d.create(file.id, name.encode(), like.id.get_type(), whole, properties)


def virtual_is_right(folder: Path, split: str, record: SplitRecord) -> bool:
    """Tell whether the file of a split is there and shows these shards."""
    path = folder / split_name(split)
    try:
        if verify_checksum(path) is None:
            return False
        with open_hdf5(path) as file:
            fields = file[FIELDS]
            shown = [(source.file_name, source.vspace.get_select_bounds()[0][0]) for source in fields.virtual_sources()]
            return len(fields) == record.count and shown == [(shard.file, shard.first) for shard in record.shards]
    except (OSError, KeyError, RuntimeError):
        return False
