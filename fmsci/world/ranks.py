"""Who am I among the processes of this job: rank facts from torchrun, mpiexec, srun, or nothing.

The innermost launcher counts: torchrun inside srun, mpiexec inside a Slurm job.
Missing or contradictory variables are an error, never a silent world of one: N such worlds would each do the whole job.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fmsci.errors import UserError
from fmsci.nodelist import expand_nodelist

FIRST_PORT, NUM_PORTS = 20_000, 10_000
"""Ports derived from a job id lie in this range, below the ports that systems hand out by themselves."""


MPI_LAUNCHERS = {"hydra_pmi_proxy", "mpiexec", "mpiexec.hydra", "mpirun", "orted", "orterun", "prted", "prterun"}
"""What the process that starts MPI ranks on a host is called."""


@dataclass(frozen=True)
class World:
    """The rank facts of one process; ``address`` and ``port`` are where rank 0 waits for the others (training)."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str = "none"
    host: str = "localhost"
    address: str | None = None
    port: int | None = None

    @property
    def is_main(self) -> bool:
        """True on the one rank that prints and writes shared files."""
        return self.rank == 0


def detect_world(environ: Mapping[str, str] | None = None, step_needed: bool = True) -> World:
    """Return the rank facts that the launcher left in the environment.

    Without ``step_needed`` a process outside of the steps of a Slurm job is alone, however many tasks the job has: job
    scripts ask there what they are to start.

    Raises UserError where they are missing, contradict each other, or say that a launcher should have been used.
    """
    env = os.environ if environ is None else environ
    world = _innermost(env, step_needed)
    if not (0 <= world.rank < world.size and 0 <= world.local_rank < world.local_size <= world.size):
        raise UserError(
            f"the variables of {world.launcher} contradict each other: rank {world.rank} of {world.size}, local rank "
            f"{world.local_rank} of {world.local_size}; start again from a clean shell"
        )
    if world.port is not None and not 0 < world.port < 2**16:
        raise UserError(f"MASTER_PORT is {world.port} but should be from 1 to 65535")
    _agree_with_hand_set(env, world)
    return world


def _innermost(env: Mapping[str, str], step_needed: bool) -> World:
    if "TORCHELASTIC_RUN_ID" in env:
        return _torchrun(env)
    if "OMPI_COMM_WORLD_SIZE" in env or "OMPI_COMM_WORLD_RANK" in env:
        return _mpi(env, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_")
    if "MPI_LOCALRANKID" in env or (not env.keys().isdisjoint({"PMI_RANK", "PMI_SIZE"}) and "SLURM_STEP_ID" not in env):
        return _mpi(env, "PMI_RANK", "PMI_SIZE", "")
    if "SLURM_STEP_ID" in env:
        return _slurm(env)
    if "RANK" in env or "WORLD_SIZE" in env:
        return _torch(env, "RANK and WORLD_SIZE")
    for name, what in (("SLURM_NTASKS", "tasks"), ("SLURM_JOB_NUM_NODES", "nodes")):
        if step_needed and (count := _integer(env, name, default=1)) > 1:
            raise UserError(
                f"this Slurm job has {count} {what} but the command was not started as a step of it; "
                "write 'srun fmsci ...'"
            )
    if "PMIX_RANK" in env:
        raise UserError(
            "PMIX_RANK is set but nothing says how many ranks there are; "
            "start with mpiexec, srun or torchrun, or unset it"
        )
    return World(host=socket.gethostname())


def _torchrun(env: Mapping[str, str]) -> World:
    """Trust torchrun, unless srun started several that do not know of each other: each would do the whole job."""
    tasks = _integer(env, "SLURM_STEP_NUM_TASKS", default=1)
    if tasks > 1 and env.get("GROUP_WORLD_SIZE") == "1":
        raise UserError(
            f"srun started torchrun {tasks} times, each for itself; give torchrun --nnodes={tasks} and a common "
            "--rdzv-endpoint, or write 'srun fmsci ...' without torchrun"
        )
    return _torch(env, "torchrun")


def _torch(env: Mapping[str, str], launcher: str) -> World:
    size = _integer(env, "WORLD_SIZE")
    rank = _integer(env, "RANK")
    local_rank = _integer(env, "LOCAL_RANK", default=0 if size == 1 else None)
    local_size = _integer(env, "LOCAL_WORLD_SIZE", default=size)
    address = _required(env, "MASTER_ADDR") if size > 1 else env.get("MASTER_ADDR")
    port = _integer(env, "MASTER_PORT") if size > 1 else None
    return World(rank, size, local_rank, local_size, launcher, socket.gethostname(), address, port)


def _mpi(env: Mapping[str, str], rank_name: str, size_name: str, local_prefix: str) -> World:
    size = _integer(env, size_name)
    rank = _integer(env, rank_name)
    if local_prefix:
        local_rank = _integer(env, local_prefix + "RANK")
        local_size = _integer(env, local_prefix + "SIZE")
    else:
        local_rank = _integer(env, "MPI_LOCALRANKID", default=0 if size == 1 else None)
        local_size = _integer(env, "MPI_LOCALNRANKS", default=1 if size == 1 else None)
    address: str | None = env.get("MASTER_ADDR")
    port: int | None = _integer(env, "MASTER_PORT") if "MASTER_PORT" in env else None
    if address is None and local_size == size:
        # All ranks are on this host and descend from one launcher: its number gives a port that they agree on.
        address, port = "127.0.0.1", port or FIRST_PORT + _launcher_pid() % NUM_PORTS
    return World(rank, size, local_rank, local_size, "mpiexec", socket.gethostname(), address, port)


def _launcher_pid() -> int:
    """Return the number of the launcher's process: the parent, unless a wrapper script stands between."""
    pid = parent = os.getppid()
    try:
        while pid > 1:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
            if name in MPI_LAUNCHERS:
                return pid
            pid = int(rest.split()[1])
    except OSError:  # no /proc, or not ours to read
        pass
    return parent


def _slurm(env: Mapping[str, str]) -> World:
    size = _integer(env, "SLURM_STEP_NUM_TASKS", default=_integer(env, "SLURM_NTASKS", default=-1))
    if size < 0:
        raise UserError(
            "srun left no SLURM_STEP_NUM_TASKS and no SLURM_NTASKS; start the command with 'srun fmsci ...'"
        )
    rank = _integer(env, "SLURM_PROCID")
    local_rank = _integer(env, "SLURM_LOCALID", default=0 if size == 1 else None)
    hosts = expand_nodelist(_required(env, "SLURM_STEP_NODELIST" if "SLURM_STEP_NODELIST" in env else "SLURM_NODELIST"))
    local_size = _tasks_on_node(env, size, len(hosts))
    port = _integer(env, "MASTER_PORT", default=FIRST_PORT + _integer(env, "SLURM_JOB_ID") % NUM_PORTS)
    return World(
        rank, size, local_rank, local_size, "srun", socket.gethostname(), env.get("MASTER_ADDR", hosts[0]), port
    )


def _tasks_on_node(env: Mapping[str, str], size: int, num_nodes: int) -> int:
    """Read ``SLURM_STEP_TASKS_PER_NODE``, such as ``4(x2),3``, at this node's place."""
    text = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE")
    if text is None:
        return -(-size // num_nodes)
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,6})\))?", part)
        if match is None:
            raise UserError(f"SLURM_STEP_TASKS_PER_NODE is '{text}', which is no list such as 4(x2),3")
        counts += [int(match[1])] * int(match[2] or 1)
    node = _integer(env, "SLURM_NODEID", default=0 if num_nodes == 1 else None)
    if not 0 <= node < len(counts) or len(counts) != num_nodes or sum(counts) != size:
        raise UserError(f"Slurm's variables contradict each other: {size} tasks, but '{text}' tasks on the nodes")
    return counts[node]


def _agree_with_hand_set(env: Mapping[str, str], world: World) -> None:
    """Refuse RANK or WORLD_SIZE left over from another launcher: torch would believe them."""
    for name, value in (("RANK", world.rank), ("WORLD_SIZE", world.size)):
        if name in env and world.launcher not in {"torchrun", "RANK and WORLD_SIZE"} and _integer(env, name) != value:
            raise UserError(f"{name} is {env[name]} but {world.launcher} says {value}; unset {name} and start again")


def _required(env: Mapping[str, str], name: str) -> str:
    if not env.get(name):
        raise UserError(
            f"the launcher's variable {name} is missing; start with torchrun, srun, mpiexec, or none of them"
        )
    return env[name]


def _integer(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in env:
        return default
    text = _required(env, name)
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} is '{text}' but should be a whole number; unset it or start with a launcher") from None
