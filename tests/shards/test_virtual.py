"""``train.h5``, ``valid.h5`` and ``test.h5`` show the shards and nothing else, or the check tells."""

import h5py
import numpy as np
import pytest

from fmsci.shards.check import check_folder
from fmsci.shards.checksum import write_checksum


def found(folder):
    return [(finding.file, finding.problem) for finding in check_folder(folder)]


def virtual(file, name, places):
    """Put a virtual dataset in place of another: (file, dataset, where it begins, first and last of its samples)."""
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    layout = h5py.VirtualLayout(shape, dtype)
    for shard, source, begin, first, last in places:
        whole = h5py.VirtualSource(f"train/shard-{shard:05d}.h5", source, shape=(min(5, 22 - 5 * shard), *shape[1:]))
        layout[begin : begin + last - first] = whole[first:last]
    file.create_virtual_dataset(name, layout)


RIGHT = [(shard, "tensor", 5 * shard, 0, min(5, 22 - 5 * shard)) for shard in range(5)]


def zeros(file):
    old = file["tensor"]
    del file["tensor"]
    file["tensor"] = np.zeros(old.shape, old.dtype)


def group(file):
    del file["fields"]
    file.create_group("fields")


def without_shape(file):
    del file["sample_id"]
    file["sample_id"] = h5py.Empty("i8")


def link(file):
    del file["residual"]
    file["residual"] = h5py.SoftLink("/solution_max")


@pytest.mark.parametrize(
    "change",
    [
        zeros,
        group,
        without_shape,
        link,
        lambda file: file.__delitem__("solution_norm"),
        lambda file: file.create_dataset("notes", data=np.zeros(22)),
        lambda file: file.move("source_norm", "solution_norm2"),
        lambda file: virtual(file, "tensor", RIGHT[:-1]),
        lambda file: virtual(file, "tensor", [*RIGHT[:3], (3, "tensor", 15, 0, 4), (4, "tensor", 20, 0, 2)]),
        lambda file: virtual(file, "tensor", [*RIGHT[:3], (3, "tensor", 16, 1, 5), (4, "tensor", 20, 0, 2)]),
        lambda file: virtual(file, "tensor", [(1, *RIGHT[0][1:]), *RIGHT[1:]]),
        lambda file: virtual(file, "residual", [(shard, "pair_error", *rest) for shard, _, *rest in RIGHT]),
        lambda file: file.attrs.modify("columns", ["w", "k11"]),
        lambda file: file.attrs.modify("range", [3.0, 1.0]),
        lambda file: file.attrs.__delitem__("option_w"),
    ],
)
def test_a_split_file_that_shows_other_than_the_shards_is_found(folder, change):
    """In any dataset or attribute, with a first line that fits, as a faulty program would make it."""
    path = folder / "train.h5"
    with h5py.File(path, "r+") as file:
        change(file)
    write_checksum(path)
    assert found(folder) == [("train.h5", "it does not show the shards of its split")]


def test_a_split_file_may_map_its_shards_in_other_words(folder):
    with h5py.File(folder / "train.h5", "r+") as file:
        virtual(file, "tensor", RIGHT)
    write_checksum(folder / "train.h5")
    assert found(folder) == []
