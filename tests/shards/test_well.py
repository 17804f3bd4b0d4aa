"""``fmsci data export --to well``: read back by the package itself, and held against the written format without it."""

import json
import shutil

import h5py
import numpy as np
import pytest

from fmsci.shards import open_split
from tests.commands import run


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("well")
    request = [
        "system=advection_diffusion",
        "range=[0.2,1]",
        "grid=16",
        "train=7",
        "valid=2",
        "test=2",
        "shard_samples=4",
    ]
    run(["generate", *request, f"output={path / 'data'}"])
    run(["data", "export", path / "data", "--to", "well", "--output", path / "out"])
    return path


def test_the_written_layout(exported):
    fields, tensor, _ = open_split(exported / "data", "train").gather(np.arange(4))
    with h5py.File(exported / "out/data/train/shard-00000.hdf5") as file:
        assert dict(file.attrs)["n_trajectories"] == 4
        assert file.attrs["grid_type"] == "cartesian"
        assert file["dimensions"].attrs["spatial_dims"].tolist() == ["x", "y"]
        assert file["t0_fields"].attrs["field_names"].tolist() == ["solution", "source"]
        assert np.array_equal(file["t0_fields/source"][:], fields[:, 0].swapaxes(1, 2))  # axes (x, y) there
        assert file["t0_fields/solution"].shape == (4, 1, 16, 16)
        assert np.array_equal(file["scalars/v1"][:], tensor[:, 3])


def test_a_folder_that_holds_files_takes_no_others(exported):
    said = run(["data", "export", exported / "data", "--output", exported / "out"], code=2)
    assert "out is no new folder: it holds data; remove it, or give another --output" in said


def test_the_well_reads_it(exported):
    from the_well.data import WellDataset

    dataset = WellDataset(path=str(exported / "out"), well_split_name="train", n_steps_input=0, n_steps_output=1)
    assert len(dataset) == 7
    assert dataset.metadata.field_names[0] == ["solution"]
    assert dataset.metadata.constant_field_names[0] == ["source"]
    assert dataset.metadata.constant_scalar_names == ["k11", "k22", "k12", "v1", "v2"]
    assert dataset.metadata.boundary_condition_types == ["PERIODIC"]
    fields, tensor, _ = open_split(exported / "data", "train").gather(np.arange(7))
    for index in (0, 3, 4, 6):
        sample = dataset[index]
        assert np.array_equal(sample["output_fields"].numpy()[0, :, :, 0], fields[index, 1].T)
        assert np.array_equal(sample["constant_fields"].numpy()[:, :, 0], fields[index, 0].T)
        assert np.array_equal(sample["constant_scalars"].numpy(), tensor[index])
        assert sample["boundary_conditions"].numpy().tolist() == [[2, 2], [2, 2]]


def test_an_unknown_layout_is_a_sentence(exported):
    assert "should be: well" in run(["data", "export", exported / "data", "--to", "wall", "--output", "x"], code=2)


OUTSIDE = "valid/../../../HERE/data/valid"
"""The same folder as ``valid``, by a way through the folder that holds the data folder, HERE."""


def without_shards(splits):
    splits["valid"]["shards"] = []


def with_a_shard_outside(splits):
    splits["valid"]["shards"][0]["file"] = f"{OUTSIDE}/shard-00000.h5"


def with_a_split_outside(splits):
    splits[OUTSIDE] = splits.pop("valid")
    splits[OUTSIDE]["shards"][0]["file"] = f"{OUTSIDE}/shard-00000.h5"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without_shards, "valid: it names no shards"),
        (with_a_shard_outside, "where valid/shard-00000.h5 should be"),
        (with_a_split_outside, " is no split: there are train, valid, test"),
    ],
)
def test_a_manifest_that_contradicts_itself_writes_nothing(exported, tmp_path, change, sentence):
    folder = shutil.copytree(exported / "data", tmp_path / "data")
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest["splits"])
    (folder / "manifest.json").write_text(json.dumps(manifest).replace("HERE", tmp_path.name))
    assert sentence in run(["data", "export", folder, "--output", tmp_path / "out"], code=2)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
