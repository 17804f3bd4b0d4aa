"""The doctor: between real ranks on two nodes, and its judgement of what ranks found."""

import socket
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from fmsci.cluster import doctor
from fmsci.cluster.doctor import Check, compare, examine, merge
from fmsci.world import World
from tests.commands import run as fmsci

FOUND = "fmsci 1, torch 2"


def fact(rank, host, device="cpu", clock=0.0, versions=FOUND, sees_token=True, advice=None):
    checks = [{"name": "versions", "found": versions, "advice": advice}]
    return {
        "rank": rank,
        "host": host,
        "device": device,
        "clock": clock,
        "sees_token": sees_token,
        "checks": checks,
    }


def failed(facts):
    return {check.name: (check.found, check.advice) for check in compare(facts, Path("runs")) if check.advice}


def test_equal_ranks_pass():
    assert failed([fact(0, "a"), fact(1, "b", clock=0.5)]) == {}
    assert failed([fact(0, "a", "cuda:0"), fact(1, "a", "cuda:1"), fact(2, "b", "cuda:0")]) == {}


@pytest.mark.parametrize(
    ("other", "name", "sentence"),
    [
        (fact(2, "c", versions="fmsci 1, torch 3"), "same versions", "c has fmsci 1, torch 3, others fmsci 1, torch 2"),
        (fact(2, "c", sees_token=False), "shared folder", "not seen on c"),
        (fact(2, "c", clock=-9.0), "clocks", "at most 9.00 s apart"),
    ],
)
def test_what_differs_between_ranks_is_told_with_what_to_do(other, name, sentence):
    found = failed([fact(0, "a"), fact(1, "b"), other])
    assert list(found) == [name]
    assert found[name][0] == sentence
    assert found[name][1]


def test_two_ranks_on_one_device_are_told():
    found = failed([fact(0, "a", "cuda:1"), fact(1, "a", "cuda:1")])
    assert found["a device each"][0] == "several ranks on a use cuda:1"


def test_what_failed_on_any_rank_is_told_with_its_place():
    (check,) = merge([fact(0, "a"), fact(1, "b", versions="no torch", advice="install it"), fact(2, "b", advice="it")])
    assert check == Check("versions", "rank 1 on b (and 1 more ranks): no torch", "install it")
    assert merge([fact(0, "a"), fact(1, "b")]) == [Check("versions", FOUND)]


def test_a_folder_that_rank_0_cannot_write_to_is_told_once():
    blind = [fact(0, "a", sees_token=False), fact(1, "b", sees_token=False)]
    assert failed(blind) == {}  # that rank 0 has no access is a check of its own


def test_a_look_leaves_nothing_behind(tmp_path):
    missing = tmp_path / "no" / "folder"
    said = fmsci(["doctor", "--folder", missing], code=1)
    assert f"BAD  write access: there is no folder {missing}\n" in said
    assert "what to do: make it (mkdir -p), or name the folder that jobs will write to" in said
    assert list(tmp_path.iterdir()) == []
    assert "BAD" not in fmsci(["doctor", "--folder", tmp_path])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "generate", "size", "advice"),
    [
        ("safetensors", False, 1, "pip install safetensors"),
        ("deepspeed", False, 2, None),
        ("mpi4py", False, 2, None),
        ("mpi4py", True, 1, None),
        ("mpi4py", True, 2, "pip install mpi4py"),
    ],
)
def test_a_package_is_missed_by_the_jobs_that_need_it(monkeypatch, tmp_path, package, generate, size, advice):
    def without(name):
        if name == package:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", without)
    monkeypatch.setattr(doctor, "_between", lambda world, folder, own: own)
    check = examine(World(size=size), tmp_path, generate)[0]
    assert (check.name, check.advice) == ("versions", advice)
    assert f"no {package}" in check.found  # it differs from that of a node which has it
    others = {"torch", "h5py", "numpy", "safetensors", "mpi4py", "deepspeed"} - {package}
    assert all(f"{name} {version(name)}" in check.found for name in others)


def test_a_rank_that_never_comes_is_waited_for_as_long_as_that(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "MEETING_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    began = time.monotonic()
    checks = examine(World(0, 2, 0, 1, "srun", "a", "127.0.0.1", port), tmp_path)
    assert time.monotonic() - began < 5
    (check,) = [check for check in checks if check.advice]
    assert check.found == f"rank 0 on a did not meet the others at 127.0.0.1:{port}: rank 1 never came in 1 s"
    assert check.advice.startswith("see whether each node finds that host")


@pytest.mark.slurm
@pytest.mark.xdist_group("slurm")
def test_two_nodes_are_examined_within_half_a_minute(cluster):
    began = time.monotonic()
    said = cluster.login("srun", "--nodes=2", "--ntasks-per-node=1", "fmsci", "doctor")
    assert time.monotonic() - began < 30
    checks = dict(line[6:].split(": ", 1) for line in said.splitlines() if line.startswith("  ok "))
    assert checks[" ranks"] == "2 on 2 hosts: node1 (1), node2 (1), launcher: srun"
    assert checks[" address"].startswith("all met at node1:")
    assert checks[" all-reduce"].startswith("right, ")
    assert checks[" shared folder"] == "seen by all ranks"
    assert "BAD" not in said
    assert list(cluster.folder.glob(".fmsci-doctor*")) == []


@pytest.mark.slurm
@pytest.mark.xdist_group("slurm")
def test_a_folder_that_the_nodes_do_not_share_stops_the_job(cluster, train_config):
    """Each node has a /tmp of its own; the doctor is the first step of a job and ends it."""
    words = [train_config, "run=/tmp/fmsci-not-shared/run"]
    job = cluster.sbatch("slurm/pretrain.sbatch", *words, FMSCI_DOCTOR="yes")
    assert cluster.ended(job) == "FAILED"
    log = cluster.log(job)
    assert "BAD  shared folder: not seen on node2" in log
    assert "what to do: choose a folder on a file system that all nodes share, not /tmp/fmsci-not-shared/run" in log
    assert "these nodes are not fit for the job; see above" in log
    assert "best validation error" not in log
