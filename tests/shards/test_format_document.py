"""docs/format.md names everything that is in the files."""

import zlib
from pathlib import Path

import h5py
import pytest

from fmsci.config import GenerateSettings, parse
from fmsci.generate import generate
from fmsci.pde import SYSTEMS
from fmsci.shards.manifest import Acceptance, Manifest, Provenance, Scales, ShardRecord, SplitRecord, Statistic
from fmsci.world import World

TEXT = (Path(__file__).parents[2] / "docs/format.md").read_text()


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_datasets_and_attributes(tmp_path, system):
    request = {"system": system, "range": [1, 2], "grid": 8, "train": 2, "valid": 1, "test": 1}
    generate(parse(GenerateSettings, {**request, "output": str(tmp_path)}, "here"), World())
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        *(".lock", "plan.json", "manifest.json", "train.h5", "valid.h5", "test.h5"),
        *(f"{split}/shard-00000.h5" for split in ("train", "valid", "test")),
    }
    shard = tmp_path / "train/shard-00000.h5"
    with h5py.File(shard) as file:
        for name, dataset in file.items():
            assert f"| `{name}` | " in TEXT
            assert dataset.chunks is None
            assert dataset.compression is None
        for name in file.attrs:
            assert f"| `{name}` | " in TEXT or name.startswith("option_")
    content = shard.read_bytes()
    line = f"fmsci shard, HDF5 from byte 4096, crc32:{zlib.crc32(content[4096:]):08x}\n"
    assert content[:4096] == line.encode().ljust(4096, b"\0")


@pytest.mark.parametrize("schema", [Manifest, SplitRecord, ShardRecord, Scales, Statistic, Acceptance, Provenance])
def test_keys_of_the_manifest(schema):
    for key in schema.model_fields:
        assert f"`{key}`" in TEXT
