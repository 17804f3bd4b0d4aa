"""One file per split that shows all its shards as one: HDF5 virtual datasets, no data of their own."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

import h5py
import numpy as np

from fmsci.shards.checksum import verify_checksum, write_checksum
from fmsci.shards.layout import ACCEPTANCE, HEADER_BYTES, ShardLayout, split_name
from fmsci.shards.manifest import Manifest, ShardRecord, SplitRecord
from fmsci.shards.plain import open_hdf5
from fmsci.shards.reader import UNREADABLE
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


def virtual_is_right(folder: Path, manifest: Manifest, split: str) -> bool:
    """Tell whether the file of a split is there and shows its shards, in every dataset, with their attributes."""
    path, record = folder / split_name(split), manifest.splits[split]
    layout = manifest.facts.shard(split, 0, 0, record.count)
    try:
        if verify_checksum(path) is None:
            return False
        with open_hdf5(path) as file:
            wanted = {name: value for name, value in layout.datasets().items() if name not in layout.tables}
            names = {*file, *wanted} - {ACCEPTANCE}  # more than is wanted: a shard may have more, too
            return _same_attributes(file, layout) and all(
                _shows(file, name, wanted.get(name, (None, None)), record) for name in names
            )
    except (*UNREADABLE, AttributeError, TypeError):  # the last two where a dataset is a group, or has no shape
        return False


def _same_attributes(file: h5py.File, layout: ShardLayout) -> bool:
    wanted = {key: value for key, value in layout.attributes.items() if key not in {"first", "code_version"}}
    return all(key in file.attrs and np.array_equal(file.attrs[key], value) for key, value in wanted.items())


def _shows(file: h5py.File, name: str, wanted: tuple[tuple[int, ...] | None, str | None], record: SplitRecord) -> bool:
    """Tell whether a dataset is all shards' datasets of its name, each whole and at its place."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):  # before anything is opened through it
        return False
    dataset = file[name]
    shape, dtype = wanted
    if shape not in {None, dataset.shape} or (dtype is not None and dataset.dtype != np.dtype(dtype)):
        return False
    length, *sample = dataset.shape
    sources = dataset.virtual_sources()
    return (length, len(sources)) == (record.count, len(record.shards)) and all(
        (source.file_name, source.dset_name) == (shard.file, name)
        and _whole(source.src_space, shard.count, sample)
        and source.vspace.get_select_bounds() == ((shard.first, *(0 for _ in sample)), _last(shard, sample))
        and source.vspace.get_select_npoints() == shard.count * prod(sample)
        for source, shard in zip(sources, record.shards, strict=True)
    )


def _whole(shown: h5py.h5s.SpaceID, count: int, sample: Sequence[int]) -> bool:
    """Tell whether what is shown of a shard's dataset is all of it."""
    if shown.get_select_type() == h5py.h5s.SEL_ALL:  # its shape is not kept then
        return True
    return bool(shown.shape == (count, *sample) and shown.get_select_npoints() == count * prod(sample))


def _last(shard: ShardRecord, sample: Sequence[int]) -> tuple[int, ...]:
    """Return the place of a shard's last number in its split."""
    return (shard.first + shard.count - 1, *(length - 1 for length in sample))
