"""The output folder is looked at before anything is made."""

import shutil
from collections import namedtuple

import pytest

from fmsci.errors import UserError
from fmsci.generate.place import check_place, num_bytes
from fmsci.generate.plan import build_request
from tests.commands import run
from tests.generate.test_plan import settings

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("system", "data_range", "samples"), [("poisson", "[1,5]", 37), ("helmholtz", "[1,90]", 40)])
def test_the_bytes_are_known_before_they_are_written(tmp_path, monkeypatch, system, data_range, samples):
    made = [f"system={system}", f"range={data_range}", "grid=64", f"train={samples}", "valid=9", "test=8"]
    folder = tmp_path / "data"
    run(["generate", *made, "shard_samples=8", f"output={folder}"])
    low, high = map(float, data_range.strip("[]").split(","))
    counts = {"train": samples, "valid": 9, "test": 8, "shard_samples": 8}
    request = build_request(settings(system=system, range=[low, high], grid=64, **counts))
    written = [path.stat().st_size for path in folder.glob("*/shard-*.h5")]
    expected = num_bytes(request)
    assert sum(written) <= expected <= sum(written) + 12_000 * len(written)

    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, expected - 1))
    with pytest.raises(UserError, match=r"new needs .* more, its file system has .* free; make fewer samples"):
        check_place(tmp_path / "new", request)
    check_place(folder, request)  # all is there already
    max(folder.glob("train/shard-*.h5")).unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, 1))
    with pytest.raises(UserError, match=r"data needs .* more, its file system has 1 B free"):
        check_place(folder, request)


def test_hidden_files_do_not_keep_a_folder_from_being_new(tmp_path):
    (tmp_path / ".aside-plan.json-host-1").touch()  # of a start that was killed in its first moment
    check_place(tmp_path, build_request(settings()))
