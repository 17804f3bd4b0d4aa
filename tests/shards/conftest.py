"""A small data folder of several shards, and a copy of it that a test may spoil."""

import shutil

import pytest

from tests.commands import run

REQUEST = ["system=helmholtz", "range=[1,3]", "grid=16", "train=22", "valid=3", "test=3", "shard_samples=5"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    path = tmp_path_factory.mktemp("pristine") / "data"
    run(["generate", *REQUEST, f"output={path}"])
    return path


@pytest.fixture
def folder(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "data")
