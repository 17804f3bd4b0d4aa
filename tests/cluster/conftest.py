"""One cluster of two nodes, brought up once for all tests that need no other."""

import os

import pytest

from tests.cluster.pretended import slurm
from tests.cluster.running import like_a_checkout, started

__all__ = ["slurm"]


@pytest.fixture
def cluster(running_cluster):
    """The cluster with nothing left of the test before."""
    quiet = ["sinfo", "--noheader", "--partition=main", "--states=idle", "--format=%D"]
    running_cluster.wait_for("two idle nodes", lambda: running_cluster.login(*quiet).split() == ["2"])
    return running_cluster


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory):
    # All of this worker's folders are shared, those of other fixtures too.
    shared = tmp_path_factory.getbasetemp()
    with started(tmp_path_factory.mktemp("cluster"), f"slurm-{os.getpid()}", shared) as cluster:
        yield cluster


@pytest.fixture
def files(request, tmp_path, monkeypatch):
    """A folder with a test module's FILES, by which nothing was made yet, as the current one."""
    for name, text in request.module.FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(cluster, request):
    """The run folder of a test, which is not there yet."""
    return cluster.folder / request.node.name.replace("[", "-").rstrip("]")


@pytest.fixture
def place(cluster, request, monkeypatch):
    """A folder of the test's own with its module's FILES, from which its jobs are submitted."""
    folder = cluster.folder / request.node.name
    folder.mkdir()
    like_a_checkout(folder)
    for name, text in request.module.FILES.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(cluster, "folder", folder)
    return folder
