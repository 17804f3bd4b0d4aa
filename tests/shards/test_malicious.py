"""A data folder made to do harm: names and links that lead out of it, data of other files, shapes that nobody wrote."""

import json
import os
import shutil

import h5py
import numpy as np
import pytest

from fmsci.dataset.samples import SampleSet
from fmsci.errors import UserError
from fmsci.shards import open_split
from fmsci.shards.check import check_folder
from tests.commands import run

SECRET = 12345.678


@pytest.fixture
def folder(poisson_data, tmp_path):
    return shutil.copytree(poisson_data, tmp_path / "data")


@pytest.fixture
def outside(tmp_path):
    """A file that is none of the folder's business."""
    path = tmp_path / "outside.h5"
    with h5py.File(path, "w") as file:
        file["fields"] = np.full((13, 2, 16, 16), SECRET, np.float32)
        file["tensor"] = np.full((13, 3), SECRET, np.float32)
        file["sample_id"] = np.arange(13)
    return path


def refused(folder, words):
    """The reader refuses the folder, saying these words; the check finds it too, and names a file."""
    with pytest.raises(UserError, match=words):
        SampleSet(folder, "train").gather(np.arange(13))
    assert checked(folder)


def checked(folder):
    """Return what the check finds; a manifest that cannot be read is told by a sentence."""
    try:
        return check_folder(folder)
    except UserError as error:
        return [str(error)]


def edit(folder, change):
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("name", ["../outside.h5", "/etc/passwd", "train/../../outside.h5", "train/shard-1.h5", ""])
def test_a_shard_of_another_name(folder, outside, name):
    edit(folder, lambda m: m["splits"]["train"]["shards"][0].update(file=name))
    refused(folder, "contradicts itself: train: it names .* where train/shard-00000.h5 should be")


def test_a_shard_that_is_a_link_out_of_the_folder(folder, outside):
    shard = folder / "train/shard-00000.h5"
    shard.unlink()
    shard.symlink_to(outside)
    refused(folder, "lies outside of the folder")


def test_a_split_that_is_a_link_out_of_the_folder(folder, tmp_path):
    (folder / "train").rename(tmp_path / "elsewhere")
    (folder / "train").symlink_to(tmp_path / "elsewhere")
    refused(folder, "lies outside of the folder")


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert len(SampleSet(tmp_path / "link", "train").gather(np.arange(13))) == 13
    assert check_folder(tmp_path / "link") == []


def test_a_pipe_keeps_nobody_waiting(folder):
    shard = folder / "train/shard-00000.h5"
    shard.unlink()
    os.mkfifo(shard)
    refused(folder, "it is no file")


def external(file, name, old, outside):
    file.create_dataset(name, old.shape, old.dtype, external=[(str(outside), 0, old.nbytes)])


def virtual(file, name, old, outside):
    layout = h5py.VirtualLayout(old.shape, old.dtype)
    layout[:] = h5py.VirtualSource(str(outside), name, shape=old.shape)
    file.create_virtual_dataset(name, layout)


def linked(file, name, old, outside):
    file[name] = h5py.ExternalLink(str(outside), f"/{name}")


@pytest.mark.parametrize("make", [external, virtual, linked])
@pytest.mark.parametrize("name", ["fields", "tensor"])
def test_data_of_another_file(folder, outside, make, name):
    with h5py.File(folder / "train/shard-00000.h5", "r+") as file:
        old = file[name][()]
        del file[name]
        make(file, name, old, outside)
    refused(folder, "stored in another file|no dataset of this file")


@pytest.mark.parametrize("shape", [(13, 2, 1 << 20, 1 << 20), (1 << 40, 2, 16, 16), (13, 2, 16, 17), (13, 2, 16)])
def test_a_shape_that_is_not_the_manifests(folder, shape):
    with h5py.File(folder / "train/shard-00000.h5", "r+") as file:
        del file["fields"]
        file.create_dataset("fields", shape, "f4", chunks=True)
    refused(folder, "the dataset fields is .* instead of")


def test_a_dataset_that_nobody_wrote_is_no_zeros(folder):
    with h5py.File(folder / "train/shard-00000.h5", "r+") as file:
        shape = file["fields"].shape
        del file["fields"]
        file.create_dataset("fields", shape, "f4")
    refused(folder, "the dataset fields was never written")


def test_a_manifest_cannot_ask_for_memory(folder):
    """Counts and grids that it declares are held against a file before anything of that size is made."""

    def change(m):
        m["grid"] = 1 << 30
        m["splits"]["train"]["count"] = m["splits"]["train"]["shards"][0]["count"] = 1 << 50
        m["splits"]["train"]["shards"][0]["bytes"] = 1 << 60

    edit(folder, change)
    refused(folder, "the dataset fields is .* instead of")
    said = run(["data", "info", folder], code=2)
    assert "Traceback" not in said


def test_a_later_shard_cannot_hold_more_than_the_first(folder):
    def change(m):
        more = m["splits"]["train"]["shards"][0] | {"file": "train/shard-00001.h5", "first": 13, "count": 1 << 50}
        m["splits"]["train"]["shards"].append(more)
        m["splits"]["train"]["count"] = 13 + (1 << 50)

    edit(folder, change)
    with pytest.raises(UserError, match="has more samples than the first shard"):
        open_split(folder, "train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["scales"].update(source=0.0), "'scales.source' is 0.0 but should be greater than 0"),
        (lambda m: m["scales"]["coefficients"].pop("k11"), "its scales are not those of its columns"),
        (lambda m: m["splits"]["train"].update(shards=[]), "it names no shards"),
        (lambda m: m["splits"]["train"]["shards"][0].update(first=-13), "begins at sample -13 instead of 0"),
        (lambda m: m["splits"]["train"].update(count=12), "train: it says 12 samples but the shards hold 13"),
    ],
)
def test_a_manifest_that_cannot_be(folder, change, words):
    edit(folder, change)
    refused(folder, words)


def test_a_key_given_twice(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"grid": 16', '"grid": 16, "grid": 8'))
    refused(folder, "the key 'grid' is given twice")
