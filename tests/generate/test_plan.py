"""Who makes what: pure functions."""

import json

import pytest

from fmsci.config import GenerateSettings, parse
from fmsci.errors import UserError
from fmsci.files import LARGEST_JSON
from fmsci.generate.plan import agree_with_plan, build_request, build_tasks, share
from fmsci.shards.layout import MOST_SHARDS
from fmsci.shards.manifest import ShardRecord


def settings(**changes):
    given = {"system": "poisson", "range": [1, 5], "grid": 16, "train": 10, "valid": 3, "test": 4, "shard_samples": 4}
    return parse(GenerateSettings, {**given, "output": "x", **changes}, "here")


def test_tasks_cover_every_sample_once():
    tasks = build_tasks(build_request(settings()))
    assert [(t.split, t.index, t.first, t.count) for t in tasks] == [
        ("train", 0, 0, 4),
        ("train", 1, 4, 4),
        ("train", 2, 8, 2),
        ("valid", 0, 0, 3),
        ("test", 0, 0, 4),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize("train", [1, 10, 1000])
def test_ranks_share_all_tasks_and_finish_together(size, train):
    tasks = build_tasks(build_request(settings(train=train)))
    shares = [share(tasks, rank, size) for rank in range(size)]
    assert sorted((t.split, t.index) for mine in shares for t in mine) == sorted((t.split, t.index) for t in tasks)
    loads = [sum(t.count for t in mine) for mine in shares]
    assert max(loads) - min(loads) <= 4  # one shard


def test_the_largest_shards_are_given_out_first():
    """Of 4, 2 and 2 samples one of two ranks makes the first, the other both of the rest."""
    tasks = build_tasks(build_request(settings(train=4, valid=2, test=2)))
    assert [[t.split for t in share(tasks, rank, 2)] for rank in (0, 1)] == [["train"], ["valid", "test"]]
    tasks.reverse()  # wherever it stands in the list
    assert [[t.split for t in share(tasks, rank, 2)] for rank in (0, 1)] == [["train"], ["test", "valid"]]


def test_more_files_than_a_manifest_can_name_are_refused_before_any_is_made():
    """It would be written after the last one, and read by nobody: JSON files have a largest size."""
    count = MOST_SHARDS // 3
    most = settings(train=count, valid=count, test=count, shard_samples=1)
    build_request(most)
    with pytest.raises(UserError) as refused:
        build_request(settings(train=count + 1, valid=count, test=count, shard_samples=1))
    assert str(refused.value) == (
        "shard_samples=1 makes 300,001 files, a data folder has 300,000 at most; give shard_samples=2 or more"
    )
    with pytest.raises(UserError, match=r"give shard_samples=(\d+) or more") as refused:
        build_request(settings(train=10**9, valid=7, test=7, shard_samples=10))
    enough = int(str(refused.value).split("shard_samples=")[2].split()[0])
    build_request(settings(train=10**9, valid=7, test=7, shard_samples=enough))
    longest = ShardRecord(
        file=f"train/shard-{MOST_SHARDS}.h5", first=10**12, count=10**6, bytes=10**11, checksum="crc32:01234567"
    )
    one, two = (
        len(json.dumps({"splits": {"train": {"shards": count * [longest.model_dump()]}}}, indent=2)) for count in (1, 2)
    )
    assert MOST_SHARDS * (two - one) < LARGEST_JSON - (1 << 20)


def test_another_request_in_the_same_folder_is_refused(tmp_path):
    agree_with_plan(tmp_path, build_request(settings()))
    agree_with_plan(tmp_path, build_request(settings()))
    for change, says in (
        ({"train": 11}, "counts = train 10, valid 3, test 4, now it is train 11"),
        ({"range": [1, 6]}, r"range = \[1.0, 5.0\], now it is \[1.0, 6.0\]"),
        ({"seed": 1}, "seed = 0, now it is 1"),
        ({"shard_samples": 5}, "shard_samples = 4, now it is 5"),
    ):
        with pytest.raises(UserError, match=says):
            agree_with_plan(tmp_path, build_request(settings(**change)))
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["grid"] == 16
    assert "revision" not in plan


@pytest.mark.parametrize(("begun", "now"), [(0, 1), (2, 1), (1, 0)])
def test_a_folder_that_another_revision_began_is_refused(tmp_path, monkeypatch, begun, now):
    monkeypatch.setattr("fmsci.generate.plan.REVISION", begun)
    agree_with_plan(tmp_path, build_request(settings()))
    agree_with_plan(tmp_path, build_request(settings()))
    monkeypatch.setattr("fmsci.generate.plan.REVISION", now)
    with pytest.raises(UserError, match=f"was begun with revision = {begun}, now it is {now}"):
        agree_with_plan(tmp_path, build_request(settings()))


def test_a_range_that_the_system_cannot_have_is_refused():
    with pytest.raises(UserError, match="'range' of poisson: the first number must be above 0"):
        build_request(settings(range=[0, 5]))
