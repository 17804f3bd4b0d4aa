"""An HDF5 file where the disk takes no more: one sentence, nothing half made, and a process that ends well."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

from fmsci.shards.whole import publish_hdf5
from tests.commands import clean_environment

WRITERS = {
    "predictions": """
with write_predictions(place / "p.h5", 50, (16, 16), ["k"], True, {}) as write:
    for first in range(50):
        write(first, np.ones((1, 16, 16), np.float32), np.ones(1, np.float32))
        assert first < 40, "the first that fails is told at once"
""",
    "well": 'export_well(data, place / "out")',
    "virtual": "write_virtual(place, read_manifest(place))",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk(writer, poisson_data, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    for name in ("manifest.json", "train", "valid", "test"):
        (place / name).symlink_to(poisson_data / name)
    there = {path.name for path in place.iterdir()}
    script = f"""
import resource
from pathlib import Path
import numpy as np
from fmsci.errors import UserError
from fmsci.shards import read_manifest
from fmsci.shards.predictions import write_predictions
from fmsci.shards.virtual import write_virtual
from fmsci.shards.well import export_well
data, place = Path({str(poisson_data)!r}), Path({str(place)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
{chr(10).join("    " + line for line in WRITERS[writer].strip().splitlines())}
except UserError as error:
    print("told:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"told: cannot write {place}" in done.stdout
    assert "File too large; free or change the place and repeat" in done.stdout
    assert {path.name for path in place.iterdir()} - {"out"} == there
    assert not [path for path in place.rglob("*") if path.is_file() and place in path.resolve().parents]


def test_every_reader_of_hdf5_takes_it(tmp_path):
    values = np.random.default_rng(0).normal(size=(300, 40))
    with publish_hdf5(tmp_path / "a.h5", 512) as (file, _):
        rows = file.create_dataset("rows", values.shape, "<f4")
        for first in reversed(range(0, 300, 7)):
            rows[first : first + 7] = values[first : first + 7]
        file.create_dataset("pieces", data=values, chunks=(7, 40), compression="gzip")
        file.attrs["name"] = "x"
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.userblock_size == 512
        assert np.array_equal(file["rows"][:], values.astype(np.float32))
        assert np.array_equal(file["pieces"][:], values)
        assert file.attrs["name"] == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
