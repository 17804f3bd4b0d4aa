"""Reading samples: order, maps and the HDF5 fallback."""

import pickle
import resource
from weakref import WeakSet

import h5py
import numpy as np
import pytest

from fmsci.config import GenerateSettings, parse
from fmsci.errors import UserError
from fmsci.generate import generate
from fmsci.shards import manifest as manifest_room
from fmsci.shards import open_split, read_manifest
from fmsci.shards import reader as reader_room
from fmsci.world import World


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "data"
    request = {"system": "poisson", "range": [1, 5], "grid": 16, "train": 22, "valid": 3, "test": 3, "shard_samples": 5}
    generate(parse(GenerateSettings, {**request, "output": str(path)}, "here"), World())
    return path


def test_any_order_and_repetition(folder):
    reader = open_split(folder, "train")
    assert (len(reader), reader.grid, reader.columns) == (22, 16, ("k11", "k22", "k12"))
    whole = reader.gather(np.arange(22))
    order = np.array([21, 0, 5, 4, 5, 13])
    fields, tensor, sample_id = reader.gather(order)
    assert sample_id.tolist() == order.tolist()
    assert (fields.dtype, tensor.dtype, sample_id.dtype) == (np.float32, np.float32, np.int64)
    assert np.array_equal(fields, whole[0][order])
    assert np.array_equal(tensor, whole[1][order])
    out = np.zeros((8, 2, 16, 16), np.float32)
    assert reader.gather(order, out)[0].base is out
    assert np.array_equal(out[:6], fields)
    assert reader.gather(np.array([], np.int64))[0].shape == (0, 2, 16, 16)


def test_the_contiguous_datasets_are_mapped_not_read(folder):
    reader = open_split(folder, "train")
    reader.gather(np.array([7]))
    (shard,) = reader._shards.values()
    assert isinstance(shard.fields, np.ndarray)
    with h5py.File(folder / "train/shard-00001.h5") as file:
        assert np.array_equal(shard.fields, file["fields"][()])
        assert file["fields"].id.get_offset() % 8 == 0


def test_chunked_files_are_read_through_hdf5_which_keeps_megabytes_of_each(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(reader_room, "FEWEST_OPEN", 2)
    monkeypatch.setattr(reader_room, "most_open", lambda: 1000)
    monkeypatch.setattr(reader_room, "_READERS", WeakSet())
    whole = open_split(folder, "train").gather(np.arange(22))
    copy = tmp_path / "data"
    (copy / "train").mkdir(parents=True)
    (copy / "manifest.json").write_bytes((folder / "manifest.json").read_bytes())
    for record in read_manifest(folder).splits["train"].shards:
        with h5py.File(folder / record.file) as old, h5py.File(copy / record.file, "w") as new:
            for name in ("fields", "tensor", "sample_id"):
                new.create_dataset(name, data=old[name][()], chunks=True, compression="gzip")
    reader = open_split(copy, "train")
    again = reader.gather(np.arange(22)[::-1])
    assert len(reader._shards) == 2 < len(reader._records)
    assert np.array_equal(again[0][::-1], whole[0])
    assert np.array_equal(again[2], np.arange(22)[::-1])


def test_a_manifest_is_read_once_as_long_as_it_stays(folder, monkeypatch):
    """Each split, model and check asks for it; that of 100,000 shards takes seconds."""
    read, asked = manifest_room.read_json, []
    monkeypatch.setattr(manifest_room, "read_json", lambda path: asked.append(path) or read(path))
    first = read_manifest(folder)
    assert open_split(folder, "train").manifest is open_split(folder, "valid").manifest is read_manifest(folder)
    assert len(asked) <= 1
    asked.clear()
    manifest_room.write_manifest(folder, first.model_copy(update={"seed": 12}))
    assert read_manifest(folder).seed == 12
    assert len(asked) == 1


def test_few_shards_stay_open(folder, monkeypatch):
    monkeypatch.setattr(reader_room, "most_open", lambda: 2)
    monkeypatch.setattr(reader_room, "_READERS", WeakSet())  # other tests' readers may still be there
    reader = open_split(folder, "train")
    assert reader.gather(np.arange(22)[::-1])[2].tolist() == list(range(22))[::-1]
    assert len(reader._shards) <= 2
    other = open_split(folder, "train")
    other.gather(np.arange(22))
    # a late one closes none of the first, and gets its share
    assert (len(reader._shards), len(other._shards)) == (2, 1)


def test_as_many_stay_open_as_the_process_may_have(folder, monkeypatch):
    limits = {1024: 256, 4096: 1024, 100: 256, 1 << 20: 16_384, resource.RLIM_INFINITY: 16_384}
    for limit, most in limits.items():
        monkeypatch.setattr(resource, "getrlimit", lambda what, limit=limit: (limit, limit))
        assert reader_room.most_open() == most
    reader = open_split(folder, "train")
    reader.gather(np.arange(22))
    monkeypatch.setattr(reader, "_open", None)
    assert len(reader.gather(np.arange(22)[::-1])[2]) == 22  # nothing is opened again


def test_a_reader_travels_to_another_process_without_its_files(folder):
    reader = open_split(folder, "train")
    reader.gather(np.array([3]))
    other = pickle.loads(pickle.dumps(reader))
    assert not other._shards
    assert other.gather(np.array([3]))[2].tolist() == [3]


@pytest.mark.parametrize("index", [-1, 22])
def test_an_index_outside_is_refused(folder, index):
    with pytest.raises(IndexError, match="0 to 21"):
        open_split(folder, "train").gather(np.array([index]))


def test_missing_things_are_sentences(folder, tmp_path):
    with pytest.raises(UserError, match=r"no split 'tran' .did you mean 'train'"):
        open_split(folder, "tran")
    with pytest.raises(UserError, match=r"manifest.json is missing"):
        open_split(tmp_path, "train")
    with pytest.raises(UserError, match="does not exist"):
        open_split(tmp_path / "nowhere", "train")
    shard = folder / "train/shard-00000.h5"
    shard.rename(tmp_path / "kept.h5")
    try:
        for read in (lambda reader: reader.gather(np.array([0])), lambda reader: reader.figure("residual")):
            with pytest.raises(UserError) as missing:
                read(open_split(folder, "train"))
            assert str(missing.value) == f"{shard} is missing; run: fmsci data check {folder}"
    finally:
        (tmp_path / "kept.h5").rename(shard)
