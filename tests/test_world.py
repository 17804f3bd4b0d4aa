"""Rank facts: exact for every launcher, and never a silent world of one where there should be more."""

import os
import platform
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fmsci.errors import UserError
from fmsci.world import (
    World,
    child_environment,
    cores_per_process,
    detect_world,
    gpus_of_job,
    hdf5_locks,
    num_cores,
    stale_lock_s,
    thread_limit,
)
from fmsci.world.ranks import FIRST_PORT, NUM_PORTS
from tests.commands import MPIEXEC, clean_environment
from tests.conftest import TRAINING
from tests.warm import warm

HOST = socket.gethostname()
BIN = Path(sys.executable).parent

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29400",
}
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "3"}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
BATCH = {  # what a batch script of Slurm sees
    "SLURM_JOB_ID": "1234567",
    "SLURM_NTASKS": "11",
    "SLURM_NPROCS": "11",
    "SLURM_JOB_NUM_NODES": "3",
    "SLURM_NODELIST": "gpu[07-09]",
    "SLURM_TASKS_PER_NODE": "4(x2),3",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
SRUN = BATCH | {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "11",
    "SLURM_STEP_NODELIST": "gpu[07-09]",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
}
SRUN_PORT = FIRST_PORT + 1234567 % NUM_PORTS
LAST_TASK = World(9, 11, 1, 3, "srun", HOST, "gpu07", SRUN_PORT)


def without(env, *names):
    return {name: value for name, value in env.items() if name not in names}


FACTS = {
    "no launcher": ({}, World(0, 1, 0, 1, "none", HOST)),
    "no launcher, an address left over": ({"MASTER_ADDR": "x", "MASTER_PORT": "1"}, World(host=HOST)),
    "torchrun": (TORCHRUN, World(5, 8, 1, 4, "torchrun", HOST, "n1", 29400)),
    "torchrun, one process": (
        TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        World(0, 1, 0, 1, "torchrun", HOST, "n1", None),
    ),
    "set by hand": (
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "9999"},
        World(1, 2, 1, 2, "RANK and WORLD_SIZE", HOST, "a", 9999),
    ),
    "set by hand, a world of one": (
        {"RANK": "0", "WORLD_SIZE": "1"},
        World(0, 1, 0, 1, "RANK and WORLD_SIZE", HOST, None, None),
    ),
    "MPICH, two hosts": (
        {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"},
        World(2, 4, 0, 2, "mpiexec", HOST, None, None),
    ),
    "MPICH, two hosts, address given": (
        {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
        | {"MASTER_ADDR": "n1", "MASTER_PORT": "7000"},
        World(2, 4, 0, 2, "mpiexec", HOST, "n1", 7000),
    ),
    "MPICH, one host, port given": (
        HYDRA | {"MASTER_PORT": "7000"},
        World(2, 3, 2, 3, "mpiexec", HOST, "127.0.0.1", 7000),
    ),
    "OpenMPI": (OPENMPI, World(3, 8, 1, 2, "mpiexec", HOST, None, None)),
    "MPICH inside a batch job": (
        BATCH | {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"},
        World(2, 4, 0, 2, "mpiexec", HOST, None, None),
    ),
    "MPICH, whose proxies are started by srun": (
        SRUN | {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"},
        World(2, 4, 0, 2, "mpiexec", HOST, None, None),
    ),
    "OpenMPI, whose daemons are started by srun": (SRUN | OPENMPI, World(3, 8, 1, 2, "mpiexec", HOST, None, None)),
    "srun": (SRUN, LAST_TASK),
    "srun --mpi=pmi2": (SRUN | {"PMI_RANK": "9", "PMI_SIZE": "11"}, LAST_TASK),
    "srun, the first task": (
        SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
        World(0, 11, 0, 4, "srun", HOST, "gpu07", SRUN_PORT),
    ),
    "srun of part of a job": (
        SRUN
        | {
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_NODELIST": "gpu08",
            "SLURM_STEP_TASKS_PER_NODE": "2",
            "SLURM_PROCID": "1",
            "SLURM_NODEID": "0",
        },
        World(1, 2, 1, 2, "srun", HOST, "gpu08", SRUN_PORT),
    ),
    "srun, one task of a job of many": (
        SRUN
        | {
            "SLURM_STEP_NUM_TASKS": "1",
            "SLURM_STEP_NODELIST": "gpu08",
            "SLURM_STEP_TASKS_PER_NODE": "1",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": "0",
        },
        World(0, 1, 0, 1, "srun", HOST, "gpu08", SRUN_PORT),
    ),
    "srun without a list of tasks": (
        without(SRUN, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE") | {"SLURM_LOCALID": "3"},
        World(9, 11, 3, 4, "srun", HOST, "gpu07", SRUN_PORT),
    ),
    "srun, older names": (without(SRUN, "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST"), LAST_TASK),
    "srun, address given": (
        SRUN | {"MASTER_ADDR": "ib7", "MASTER_PORT": "7000"},
        World(9, 11, 1, 3, "srun", HOST, "ib7", 7000),
    ),
    "srun, and RANK set to agree, as scripts for torch do": (SRUN | {"RANK": "9", "WORLD_SIZE": "11"}, LAST_TASK),
    "srun torchrun": (
        SRUN | TORCHRUN | {"SLURM_STEP_NUM_TASKS": "2"},
        World(5, 8, 1, 4, "torchrun", HOST, "n1", 29400),
    ),
    "torchrun on one node of a job": (
        BATCH | TORCHRUN | {"GROUP_WORLD_SIZE": "1"},
        World(5, 8, 1, 4, "torchrun", HOST, "n1", 29400),
    ),
    "a batch script of one task": (
        BATCH | {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"},
        World(0, 1, 0, 1, "none", HOST),
    ),
}


@pytest.mark.parametrize(("env", "world"), FACTS.values(), ids=FACTS)
def test_facts_of_every_launcher(env, world):
    assert detect_world(env) == world
    assert detect_world(env).is_main == (world.rank == 0)


def test_ranks_of_one_host_share_a_port_of_their_launcher():
    world = detect_world(HYDRA)
    assert (world.rank, world.size, world.address) == (2, 3, "127.0.0.1")
    assert world == detect_world(HYDRA)
    assert FIRST_PORT <= world.port < FIRST_PORT + NUM_PORTS


def test_what_a_batch_script_asks_it_asks_alone():
    assert detect_world(BATCH, step_needed=False) == World(host=HOST)
    assert detect_world(SRUN, step_needed=False) == LAST_TASK


MISSING = "is missing; start with torchrun, srun, mpiexec, or none of them"
NO_NUMBER = "should be a whole number; unset it or start with a launcher"
NO_STEP = "but the command was not started as a step of it; write 'srun fmsci ...'"
CLEAN = "start again from a clean shell"
TASKS = "Slurm's variables contradict each other: 11 tasks, but"


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        # missing
        *[
            (without(env, name), f"the launcher's variable {name} {MISSING}")
            for env, names in (
                (TORCHRUN, ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")),
                (HYDRA, HYDRA),
                (OPENMPI, OPENMPI),
                (SRUN, ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID")),
            )
            for name in names
        ],
        (without(SRUN, "SLURM_STEP_NODELIST", "SLURM_NODELIST"), f"the launcher's variable SLURM_NODELIST {MISSING}"),
        (
            without(SRUN, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
            "srun left no SLURM_STEP_NUM_TASKS and no SLURM_NTASKS; start the command with 'srun fmsci ...'",
        ),
        ({"RANK": "0"}, f"the launcher's variable WORLD_SIZE {MISSING}"),
        ({"WORLD_SIZE": "2"}, f"the launcher's variable RANK {MISSING}"),
        ({"PMI_SIZE": "2"}, f"the launcher's variable PMI_RANK {MISSING}"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, f"the launcher's variable MPI_LOCALRANKID {MISSING}"),
        (TORCHRUN | {"MASTER_ADDR": ""}, f"the launcher's variable MASTER_ADDR {MISSING}"),
        # no launcher where there should be one, or several that do not know of each other
        (BATCH, f"this Slurm job has 11 tasks {NO_STEP}"),
        (without(BATCH, "SLURM_NTASKS"), f"this Slurm job has 3 nodes {NO_STEP}"),
        (
            SRUN | TORCHRUN | {"GROUP_WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "2"},
            "srun started torchrun 2 times, each for itself; give torchrun --nnodes=2 and a common --rdzv-endpoint, "
            "or write 'srun fmsci ...' without torchrun",
        ),
        # no numbers
        (TORCHRUN | {"RANK": "five"}, f"RANK is 'five' but {NO_NUMBER}"),
        (HYDRA | {"PMI_SIZE": "3.0"}, f"PMI_SIZE is '3.0' but {NO_NUMBER}"),
        (OPENMPI | {"OMPI_COMM_WORLD_RANK": "0x1"}, f"OMPI_COMM_WORLD_RANK is '0x1' but {NO_NUMBER}"),
        (SRUN | {"SLURM_LOCALID": "1x"}, f"SLURM_LOCALID is '1x' but {NO_NUMBER}"),
        (BATCH | {"SLURM_NTASKS": "many"}, f"SLURM_NTASKS is 'many' but {NO_NUMBER}"),
        (TORCHRUN | {"MASTER_PORT": "http"}, f"MASTER_PORT is 'http' but {NO_NUMBER}"),
        (TORCHRUN | {"MASTER_PORT": "99999"}, "MASTER_PORT is 99999 but should be from 1 to 65535"),
        (SRUN | {"MASTER_PORT": "0"}, "MASTER_PORT is 0 but should be from 1 to 65535"),
        # contradictions
        *[
            (env, f"the variables of {launcher} contradict each other: {what}; {CLEAN}")
            for env, launcher, what in (
                (TORCHRUN | {"RANK": "8"}, "torchrun", "rank 8 of 8, local rank 1 of 4"),
                (TORCHRUN | {"RANK": "-1"}, "torchrun", "rank -1 of 8, local rank 1 of 4"),
                (TORCHRUN | {"LOCAL_RANK": "4"}, "torchrun", "rank 5 of 8, local rank 4 of 4"),
                (TORCHRUN | {"LOCAL_WORLD_SIZE": "16"}, "torchrun", "rank 5 of 8, local rank 1 of 16"),
                (OPENMPI | {"OMPI_COMM_WORLD_LOCAL_RANK": "2"}, "mpiexec", "rank 3 of 8, local rank 2 of 2"),
                (HYDRA | {"PMI_SIZE": "2"}, "mpiexec", "rank 2 of 2, local rank 2 of 3"),
                (SRUN | {"SLURM_LOCALID": "3"}, "srun", "rank 9 of 11, local rank 3 of 3"),
                (
                    {"RANK": "0", "WORLD_SIZE": "0", "LOCAL_RANK": "0"} | {"MASTER_ADDR": "a", "MASTER_PORT": "1"},
                    "RANK and WORLD_SIZE",
                    "rank 0 of 0, local rank 0 of 0",
                ),
            )
        ],
        (SRUN | {"SLURM_NODEID": "3"}, f"{TASKS} '4(x2),3' tasks on the nodes"),
        (SRUN | {"SLURM_NODEID": "-1"}, f"{TASKS} '4(x2),3' tasks on the nodes"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "4(x3)"}, f"{TASKS} '4(x3)' tasks on the nodes"),
        (SRUN | {"SLURM_STEP_NODELIST": "gpu[07-08]"}, f"{TASKS} '4(x2),3' tasks on the nodes"),
        *[
            (
                SRUN | {"SLURM_STEP_TASKS_PER_NODE": text},
                f"SLURM_STEP_TASKS_PER_NODE is '{text}', which is no list such as 4(x2),3",
            )
            for text in ("4(x2", "4x2,3", "4,,3", "four", "4(x),3", "4(x2)3", "²", "9(x999999999999)")
        ],
        (SRUN | {"SLURM_STEP_NODELIST": "gpu[07-"}, "'gpu[07-' is not a node list such as gpu[01-04,07]"),
        # another launcher's leftovers, which torch would believe
        (HYDRA | {"RANK": "0", "WORLD_SIZE": "3"}, "RANK is 0 but mpiexec says 2; unset RANK and start again"),
        (HYDRA | {"WORLD_SIZE": "1"}, "WORLD_SIZE is 1 but mpiexec says 3; unset WORLD_SIZE and start again"),
        (SRUN | {"RANK": "0"}, "RANK is 0 but srun says 9; unset RANK and start again"),
        (HYDRA | {"RANK": "x"}, f"RANK is 'x' but {NO_NUMBER}"),
        # a rank of some launcher that says no more
        (
            {"PMIX_RANK": "1"},
            "PMIX_RANK is set but nothing says how many ranks there are; "
            "start with mpiexec, srun or torchrun, or unset it",
        ),
    ],
)
def test_missing_and_contradictory_facts_are_a_sentence(env, sentence):
    with pytest.raises(UserError) as caught:
        detect_world(env)
    assert str(caught.value) == sentence


# ------------------------------------------------------------------ real launchers

# One write a line, so that ranks do not cut into each other's.
TELL = r"import os; from fmsci.world import detect_world; os.write(1, (repr(detect_world()) + '\n').encode())"


def launched(command, **changes):
    """Return the worlds that the processes of a real launcher found, by rank, and the launcher's exit code."""
    done = subprocess.run(
        [str(part) for part in command],
        env=clean_environment(**changes),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    worlds = [eval(line, {"World": World}) for line in done.stdout.splitlines() if line.startswith("World(")]
    return sorted(worlds, key=lambda world: world.rank), done


@pytest.mark.mpi
@pytest.mark.parametrize("wrapped", [False, True], ids=["direct", "in a wrapper script"])
def test_three_ranks_of_mpiexec(tmp_path, wrapped):
    command = [sys.executable, "-c", TELL]
    if wrapped:
        (tmp_path / "wrapper.sh").write_text(f'"{sys.executable}" -c "{TELL}"\ntrue\n')
        command = ["sh", tmp_path / "wrapper.sh"]
    worlds, done = launched([MPIEXEC, "-n", "3", *command])
    assert done.returncode == 0, done.stderr
    (port,) = {world.port for world in worlds}  # one for all
    assert worlds == [World(rank, 3, rank, 3, "mpiexec", HOST, "127.0.0.1", port) for rank in range(3)]


@pytest.mark.mpi
def test_two_jobs_of_mpiexec_at_the_same_time_have_ports_of_their_own():
    command = [str(MPIEXEC), "-n", "1", sys.executable, "-c", TELL + "; import time; time.sleep(1)"]
    jobs = [subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert len({job.communicate(timeout=60)[0] for job in jobs}) == 2


@pytest.mark.mpi
def test_a_rank_left_over_in_the_shell_stops_mpiexec():
    worlds, done = launched([MPIEXEC, "-n", "2", sys.executable, "-c", TELL], RANK="0", WORLD_SIZE="1")
    assert worlds == []
    assert done.returncode != 0
    assert "WORLD_SIZE is 1 but mpiexec says 2; unset WORLD_SIZE and start again" in done.stderr


@pytest.mark.distributed
def test_two_processes_of_torchrun(tmp_path):
    (tmp_path / "tell.py").write_text(TELL)
    worlds, done = launched([BIN / "torchrun", "--standalone", "--nproc-per-node", "2", tmp_path / "tell.py"])
    assert done.returncode == 0, done.stderr
    ((address, port),) = {(world.address, world.port) for world in worlds}
    assert worlds == [World(rank, 2, rank, 2, "torchrun", HOST, address, port) for rank in range(2)]


def test_no_launcher_at_all():
    worlds, _ = launched([sys.executable, "-c", TELL])
    assert worlds == [World(host=HOST)]


# ------------------------------------------------------------------ cores, threads, children


def test_a_process_shares_its_cores_with_those_of_its_host(monkeypatch):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    allowed = num_cores()
    assert allowed == len(os.sched_getaffinity(0))
    assert cores_per_process(World()) == allowed
    assert cores_per_process(World(0, 2, 0, 2, "mpiexec")) == max(1, allowed // 2)
    assert cores_per_process(World(0, 999, 0, 999, "mpiexec")) == 1
    assert cores_per_process(World(0, 4, 0, 4, "srun")) == max(1, allowed // 4)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")  # srun then binds each task to its own
    assert cores_per_process(World(0, 4, 0, 4, "srun")) == allowed


@pytest.mark.parametrize(("text", "limit"), [(None, None), ("", None), ("4", 4), ("four", None), ("2,1", None)])
def test_the_limit_of_threads_is_read_where_it_is_a_number(monkeypatch, text, limit):
    if text is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert thread_limit() == limit


@pytest.mark.parametrize(("text", "count"), [(None, 0), ("4", 4), ("gpu:4", 0)])
def test_the_gpus_of_a_job(monkeypatch, text, count):
    monkeypatch.delenv("SLURM_GPUS_ON_NODE", raising=False)
    if text is not None:
        monkeypatch.setenv("SLURM_GPUS_ON_NODE", text)
    assert gpus_of_job() == count


@pytest.mark.parametrize(("text", "seconds"), [(None, 0), ("0", 0), ("", 0), ("2", 120)])
def test_a_job_that_was_started_again_has_patience_with_locks(monkeypatch, text, seconds):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if text is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", text)
    assert stale_lock_s() == seconds


@pytest.mark.parametrize(("text", "locks"), [(None, True), ("TRUE", True), ("FALSE", False), ("false", False)])
def test_hdf5_locks_unless_it_is_told_not_to(monkeypatch, text, locks):
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    if text is not None:
        monkeypatch.setenv("HDF5_USE_FILE_LOCKING", text)
    assert hdf5_locks() is locks


@pytest.mark.parametrize("env", [TORCHRUN, HYDRA, OPENMPI, BATCH, SRUN, SRUN | TORCHRUN])
def test_a_child_is_a_world_of_its_own_under_any_launcher(monkeypatch, env):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KEPT", "1")
    child = child_environment(OMP_NUM_THREADS="3")
    assert detect_world(child) == World(host=HOST)
    assert (child["KEPT"], child["OMP_NUM_THREADS"], child["PATH"]) == ("1", "3", os.environ["PATH"])
    assert child.get("SLURM_JOB_ID") == env.get("SLURM_JOB_ID")


FAULTS = """
import ctypes, resource, sys
import numpy as np
from fmsci.world import keep_freed_memory
assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0  # no huge pages
mebibytes, *calls = map(int, sys.argv[1:])
for largest in calls:
    keep_freed_memory(largest << 20)
def use():
    for _ in range(10):
        for one in [np.empty(mebibytes << 17, np.float64) for _ in range(3)]:
            one[:] = 1
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
before = faults()
use()
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="no glibc here")
@pytest.mark.parametrize(
    ("calls", "mebibytes", "kept"),
    [
        ((0,), 24, True),
        ((255,), 24, True),
        ((256,), 2, True),
        ((256,), 24, False),
        ((0, 256), 24, False),
        ((256, 0), 24, True),
    ],
)
def test_freed_memory_is_used_again(calls, mebibytes, kept):
    """Three blocks at a time: their pages come from the kernel once; beside a very large one large ones every time."""
    command = [sys.executable, "-c", FAULTS, str(mebibytes), *map(str, calls)]
    faults = int(subprocess.check_output(command, env=clean_environment()))
    pages = 30 * mebibytes * 2**20 / resource.getpagesize()
    assert faults < 0.05 * pages if kept else faults > 0.8 * pages  # of themselves an eighth


FILES = """
import resource, torch
from fmsci.engine.group import process_group
from fmsci.world import World
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
with process_group(World(), torch.device("cpu"), 60.0, always=True):
    print(resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most))
"""


def test_ranks_may_open_as_many_files_as_the_system_allows():
    """Rank 0 has three for each of the others, where shells allow 1024."""
    told = subprocess.check_output([sys.executable, "-c", FILES], env=clean_environment(), text=True)
    assert told == "True\n"


GARBAGE = """
import gc, sys
from fmsci.cli import main
often, rarely = gc.get_threshold(), []
import fmsci.train.run as run
build_job = run.build_job
def build(*given):
    rarely.append(gc.get_threshold()[0])
    return build_job(*given)
run.build_job = build
try:
    main()
finally:
    print(rarely[0] > 100 * often[0], gc.get_threshold() == often)
"""


def test_a_start_looks_for_garbage_rarely_and_training_as_python_does(train_config, tmp_path):
    words = ["-c", GARBAGE, "train", train_config, f"run={tmp_path / 'run'}", *TRAINING]
    done = subprocess.run(warm(words), env=clean_environment(), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True True"
