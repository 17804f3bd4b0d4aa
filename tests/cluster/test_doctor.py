"""The doctor: between real ranks on two nodes, and its judgement of what ranks found."""

import os
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from fmsci.cluster import doctor, own_checks
from fmsci.cluster.doctor import _devices, _nodes, _sum, compare, examine, merge
from fmsci.cluster.own_checks import Check
from fmsci.config.sections import EngineSettings
from fmsci.engine.device import set_threads
from fmsci.errors import Failure
from fmsci.world import World
from tests.commands import clean_environment, free_ports
from tests.commands import run as fmsci

FOUND = "fmsci 1, torch 2"


def fact(rank, host, device=None, clock=0.0, versions=FOUND, sees_token=True, advice=None, right=True):
    checks = [{"name": "versions", "found": versions, "advice": advice}]
    return {
        "rank": rank,
        "host": host,
        "device": device,
        "clock": clock,
        "sum_is_right": right,
        "sees_token": sees_token,
        "checks": checks,
    }


def failed(facts):
    checks = [*_devices(facts), _sum(facts, 1e9), *compare(facts, Path("runs"))]
    return {check.name: (check.found, check.advice) for check in checks if check.advice}


def test_equal_ranks_pass():
    assert failed([fact(0, "a"), fact(1, "b", clock=0.5)]) == {}
    assert failed([fact(0, "a", "GPU 1"), fact(1, "a", "GPU 2"), fact(2, "b", "GPU 1")]) == {}


@pytest.mark.parametrize(
    ("other", "name", "sentence"),
    [
        (fact(2, "c", versions="fmsci 1, torch 3"), "same versions", "c has fmsci 1, torch 3, others fmsci 1, torch 2"),
        (fact(2, "c", sees_token=False), "shared folder", "not seen on c"),
        (fact(2, "c", clock=-9.0), "clocks", "at most 9.00 s apart"),
        (fact(2, "c", right=False), "all-reduce", "WRONG on rank 2 on c, 953.7 MiB/s"),
    ],
)
def test_what_differs_between_ranks_is_told_with_what_to_do(other, name, sentence):
    found = failed([fact(0, "a"), fact(1, "b"), other])
    assert list(found) == [name]
    assert found[name][0] == sentence
    assert found[name][1]


def test_two_ranks_on_one_device_are_told():
    """Each may call it its first one: a GPU is known by what it is called on its host."""
    found = failed([fact(0, "a", "GPU 7"), fact(1, "b", "GPU 7"), fact(2, "a", "GPU 7")])
    assert found["a device each"][0] == "ranks 0, 2 on a use the same one, GPU 7"
    assert found["a device each"][1].startswith("start one task per GPU")


@pytest.mark.gpu
@pytest.mark.distributed
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU on this machine")
def test_two_ranks_on_one_gpu_are_told_before_nccl_refuses_them(tmp_path):
    alone = torch.cuda.device_count() == 1
    said = fmsci(["doctor", "--folder", tmp_path], ranks=2, code=1 if alone else 0)
    assert ("BAD  a device each: ranks 0, 1 on " in said) == alone
    assert ("ok   a device each: 2 GPUs" in said) != alone
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("hosts", "nodes", "found"),
    [
        (["n1", "n2"], ["n1", "n2"], None),
        (["n1.site.org", "N2"], ["n1", "n2"], None),
        (["n1", "n1"], ["n1", "n2"], "no rank on n2 (the job has n1, n2)"),
        (["n1", "n3"], ["n1", "n2"], "no rank on n2; ranks on n3, of another job (the job has n1, n2)"),
        (["x1", "x2"], ["n1", "n2"], None),  # hosts have other names than Slurm's nodes
        (["x1", "x1"], ["n1", "n2"], "no rank on 1 of them (the job has n1, n2)"),
    ],
)
def test_ranks_are_held_against_the_nodes_of_the_job(hosts, nodes, found):
    places = [fact(rank, host) for rank, host in enumerate(hosts)]
    (check,) = _nodes(places, nodes)
    assert (check.name, check.advice is None) == ("nodes", found is None)
    assert check.found == (found or "a rank on each of the job's 2")
    assert _nodes(places, []) == []


def full_disk(monkeypatch, folder):
    monkeypatch.setattr(own_checks, "NEEDED_FREE_BYTES", 1 << 62)
    return folder


def no_locks(monkeypatch, folder):
    monkeypatch.setattr(own_checks, "can_lock", lambda path: False)
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    return folder


def many_threads(monkeypatch, folder):
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    return folder


def no_gpu(monkeypatch, folder):
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return folder


def unwritable(monkeypatch, folder):
    return Path("/proc")  # where not even root can write


@pytest.mark.parametrize(
    ("spoil", "name", "advice"),
    [
        (full_disk, "free space", "free at least "),
        (no_locks, "file locks", "export HDF5_USE_FILE_LOCKING=FALSE"),
        (many_threads, "threads", "export OMP_NUM_THREADS="),
        (no_gpu, "device", "install a torch that is built for these GPUs"),
        (unwritable, "write access", "choose a folder that you may write to, not /proc"),
    ],
)
def test_each_check_that_fails_says_what_to_do(monkeypatch, tmp_path, spoil, name, advice):
    folder = spoil(monkeypatch, tmp_path)
    (bad,) = [check for check in examine(World(), folder) if check.advice is not None]
    assert bad.name == name
    assert bad.advice.startswith(advice)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "ranks", "threads", "says"),
    [
        (None, 1, 4, ""),
        ("1", 1, 1, ", as OMP_NUM_THREADS says"),
        (None, 2, 2, ""),
        ("3", 1, 3, ", as OMP_NUM_THREADS says"),
    ],
)
def test_the_threads_are_those_that_a_training_takes(monkeypatch, tmp_path, limit, ranks, threads, says):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if limit is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
    world = World(0, ranks, 0, ranks, "mpiexec")
    (told,) = [check for check in own_checks.own_checks(world, tmp_path, False, str) if check.name == "threads"]
    word = "thread" if threads == 1 else "threads"
    assert told.found == f"a process has {4 // ranks} of 4 cores and trains with {threads} {word}{says}"
    before = torch.get_num_threads()
    try:
        set_threads(None, world)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


PARTNER = """
import sys, time
from datetime import timedelta
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore
print("ready", flush=True)
store = TCPStore("127.0.0.1", int(sys.argv[1]), 2, False, timeout=timedelta(seconds=60))
store.set("host/1", "b")
store.wait(["host/0"])
dist.init_process_group("gloo", store=PrefixStore("group", store), rank=1, world_size=2)
time.sleep(60)
"""
"""Rank 1: it comes, and then says nothing more."""


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ("doctor.REST_S = -12.0", "BAD  an exchange between the hosts: no end after 6 s, rank 0 on "),
        ("doctor.GROUP_S = 2.0; group.GRACE_S = 1.0", "BAD  ranks: no sign of life from rank 1 on b, noticed by"),
    ],
)
def test_what_hangs_is_told_and_ends(tmp_path, limits, sentence):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = f"from fmsci.cluster import doctor; from fmsci.engine import group; {limits}"
    script += "; from fmsci.cli import main; main(['doctor', '--folder', '.'])"
    facts = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = clean_environment(**{name: str(value) for name, value in facts.items()})
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    options = {"env": environment, "cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    partner = subprocess.Popen([sys.executable, "-c", PARTNER, str(port)], **options)
    try:
        assert partner.stdout.readline() == b"ready\n"
        done = subprocess.run([sys.executable, "-c", script], **options, text=True, timeout=60, check=False)
    finally:
        partner.kill()
        partner.communicate()
    assert done.returncode == 1, done.stdout
    assert sentence in done.stdout
    assert "what to do: " in done.stdout
    assert "Traceback" not in done.stdout


def test_the_file_that_ranks_look_for_goes_whatever_comes(tmp_path):
    token = tmp_path / ".fmsci-doctor-1"
    token.write_text("of one that was killed")
    seen = []

    def look():
        with doctor._shown(token):
            seen.append(token.read_text())
            raise Failure("a rank is lost")

    with pytest.raises(Failure, match="a rank is lost"):
        look()
    assert seen == [token.name]
    assert not token.exists()
    lost = tmp_path / "no folder" / "token"
    lost.parent.write_text("a file")
    with doctor._shown(lost):  # that nothing can be written there is a check of its own
        assert not lost.exists()


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

    monkeypatch.setattr(own_checks, "version", without)
    monkeypatch.setattr(doctor, "_between", lambda world, folder, generate, own, doing: own)
    check = examine(World(size=size), tmp_path, generate)[0]
    assert (check.name, check.advice) == ("versions", advice)
    assert f"no {package}" in check.found  # it differs from that of a node which has it
    others = {"torch", "h5py", "numpy", "safetensors", "mpi4py", "deepspeed"} - {package}
    assert all(f"{name} {version(name)}" in check.found for name in others)


def test_the_more_ranks_the_longer_they_are_waited_for():
    """On several nodes at least as long as training waits for them, and then there is time for the rest."""
    for ranks in (2, 64, 4096):
        alone, spread = World(size=ranks, local_size=ranks), World(size=ranks, local_size=1)
        assert doctor.meeting_s(spread) >= EngineSettings().rendezvous_s + ranks / 20
        for world in (alone, spread):
            assert doctor.limit_s(world) >= doctor.meeting_s(world) + 7 + ranks / 20
    assert doctor.limit_s(World()) < 26
    assert doctor.limit_s(World(size=8, local_size=8)) < 27


def test_a_rank_that_never_comes_is_waited_for_as_long_as_that(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "meeting_s", lambda world: 1.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    began = time.monotonic()
    checks = examine(World(0, 2, 0, 1, "srun", "a", "127.0.0.1", port), tmp_path)
    assert time.monotonic() - began < 5
    (check,) = [check for check in checks if check.advice]
    assert check.found == f"rank 0 on a did not meet the others at 127.0.0.1:{port}: rank 1 never came in 1 s"
    assert check.advice.startswith("see whether each node finds that host")


def test_the_folder_is_tried_by_one_rank_of_each_host(tmp_path):
    names = {
        local: [check.name for check in own_checks.own_checks(World(local, 4, local, 4), tmp_path, True, print)]
        for local in (0, 1)
    }
    assert names[0] == ["versions", "device", "threads", "write access", "free space", "file locks"]
    assert names[1] == names[0][:3]


@pytest.mark.parametrize("generate", [True, False])
def test_data_are_made_on_the_cpu_however_few_gpus_a_node_has(monkeypatch, tmp_path, generate):
    """More ranks than GPUs are no mistake there, nor is a torch that sees none."""
    no_gpu(monkeypatch, tmp_path)
    bad = [check.name for check in examine(World(), tmp_path, generate) if check.advice is not None]
    assert bad == ([] if generate else ["device"])
    taken = []

    def take(wanted, world):
        taken.append(world)
        raise Failure("a GPU was taken")

    monkeypatch.setattr(doctor, "pick_device", take)
    monkeypatch.setattr(own_checks, "pick_device", lambda wanted, world: torch.device("cpu"))
    monkeypatch.setattr(doctor, "MEETING_S", 0.5)
    world = World(0, 2, 0, 2, "srun", "a", "127.0.0.1", free_ports()[0])
    (told,) = [check.found for check in examine(world, tmp_path, generate) if check.name == "ranks"]
    assert ("rank 1 never came" in told, told == "a GPU was taken") == (generate, not generate)
    assert len(taken) == (not generate)


@pytest.mark.slurm
@pytest.mark.xdist_group("slurm")
def test_two_nodes_are_examined_within_half_a_minute(cluster):
    began = time.monotonic()
    said = cluster.login("srun", "--nodes=2", "--ntasks-per-node=1", "fmsci", "doctor")
    assert time.monotonic() - began < 30
    checks = dict(line[6:].split(": ", 1) for line in said.splitlines() if line.startswith("  ok "))
    assert checks[" ranks"] == "2 on 2 hosts: node1 (1), node2 (1), launcher: srun"
    assert checks[" nodes"] == "a rank on each of the job's 2"
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
