"""The doctor: between real ranks on two nodes, and its judgement of what ranks found."""

import time
from pathlib import Path

import pytest

from fmsci.cluster.doctor import Check, compare, merge

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
