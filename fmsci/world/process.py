"""What this process may use of its machine, and what its children inherit. Variables are read and set here alone."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from contextlib import suppress

from fmsci.nodelist import expand_nodelist
from fmsci.world.ranks import FIRST_PORT, World

STALE_LOCK_S = 120.0
"""Locks of a lost node have expired after so long, on NFS and Lustre as they come."""

OFTEN = gc.get_threshold()
"""How many new objects Python looks through for garbage, when nobody has told it otherwise."""

LARGE_BYTES = 256 << 20
"""A gradient so large leaves holes that cost more memory than all fields of a small batch."""

KEPT_BYTES = 16 << 20
"""Beside such gradients, blocks from this size on are given back, and what is free at the end of the heap."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # the numbers that mallopt knows them by


def num_cores() -> int:
    """Return how many cores this process is allowed to run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_per_process(world: World) -> int:
    """Return how many cores this process may use: its share of those that it is allowed to run on."""
    allowed = num_cores()
    # srun binds each task to its own cores; other launchers leave all of them to every process.
    bound = world.launcher == "srun" and "SLURM_CPUS_PER_TASK" in os.environ
    return allowed if bound else max(1, allowed // world.local_size)


def thread_limit() -> int | None:
    """Return OMP_NUM_THREADS where it is set to a number."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() else None


def threads_per_process(world: World) -> int:
    """Return with how many CPU threads this process computes where the settings do not say it."""
    return thread_limit() or cores_per_process(world)


def job_end_time() -> float | None:
    """Return when Slurm will end this job, in seconds since 1970, where it says so."""
    text = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(text) if text.isdigit() else None


def stale_lock_s() -> float:
    """Return how long a lock may still be held by nobody: a while in a job that Slurm has started again.

    It may have lost a node, whose locks a network file system forgets only when they expire: 90 s on NFS 4.
    """
    text = os.environ.get("SLURM_RESTART_COUNT", "")
    return STALE_LOCK_S if text.isdigit() and int(text) > 0 else 0.0


def gpus_of_job() -> int:
    """Return how many GPUs Slurm gave this job on this node; 0 where none were asked for."""
    text = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return int(text) if text.isdigit() else 0


def one_gpu(place: int, gpus: int) -> dict[str, str]:
    """Return the variables that show a process one of ``gpus`` GPUs, of those that this process itself may see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(gpus)] if visible is None else visible.split(",")[:gpus]
    return {"CUDA_VISIBLE_DEVICES": names[place % len(names)]}


def job_hosts() -> list[str]:
    """Return Slurm's names of the nodes of this job; none outside of one."""
    text = os.environ.get("SLURM_JOB_NODELIST", "")
    return expand_nodelist(text) if text else []


def hdf5_locks() -> bool:
    """Tell whether HDF5 will lock the files that it opens."""
    return os.environ.get("HDF5_USE_FILE_LOCKING", "TRUE").upper() not in {"FALSE", "0"}


def one_numpy_thread() -> None:
    """Give numpy's linear algebra one thread, for processes that share a node; call it before numpy is imported."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"


def end_with_parent() -> None:
    """Ask the kernel to send this process SIGTERM when its parent dies, however it dies (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_port() -> int:
    """Return a port that nobody listens at on this host, for the ranks of one job to meet."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def postpone_garbage() -> None:
    """Look for garbage rarely while modules are imported: torch's are a million objects and none of it.

    To look through them again and again is an eighth of a start.
    """
    gc.set_threshold(100_000)


def collect_garbage() -> None:
    """Look for garbage as often as Python does by itself."""
    gc.set_threshold(*OFTEN)


def keep_freed_memory(largest: int = 0) -> None:
    """Tell the C library to keep blocks that are freed, and give them out again, instead of to the kernel.

    A training step frees and asks for the same fields again and again. Each page that comes anew from the kernel costs
    one or two microseconds on a virtual machine: with it an eighth of a training step. (glibc; elsewhere nothing.)

    ``largest``: bytes of the largest block that comes and goes with a step, a parameter's gradient. Beside blocks of
    ``LARGE_BYTES`` only small ones are kept: in the hole of a large one smaller ones would settle, the next large one
    would go elsewhere, and the holes take more than all fields (docs/benchmarks.md).
    """
    try:
        library = ctypes.CDLL(None)
        if largest >= LARGE_BYTES:
            library.mallopt(_MMAP_MAX, 65536)  # as it is by itself
            library.mallopt(_MMAP_THRESHOLD, KEPT_BYTES)
            library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        else:
            library.mallopt(_MMAP_MAX, 0)  # no block is a mapping of its own
            library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # the heap is not cut back
    except (OSError, AttributeError):
        pass


def allow_open_files() -> None:
    """Let this process open as many files as the system lets it, not only as many as shells usually do (often 1024).

    Each rank has connections to all others: gloo's rank 0 opens three descriptors for each.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS takes less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def prepare_deepspeed(world: World, device: str) -> None:
    """Set the variables that DeepSpeed reads in place of arguments: rank facts, device, no kernels of its own."""
    facts = {"RANK": world.rank, "WORLD_SIZE": world.size, "LOCAL_RANK": world.local_rank}
    facts["LOCAL_WORLD_SIZE"] = world.local_size
    os.environ |= {name: str(value) for name, value in facts.items()}
    os.environ["MASTER_ADDR"] = world.address or "127.0.0.1"
    os.environ["MASTER_PORT"] = str(world.port or FIRST_PORT)
    os.environ["DS_ACCELERATOR"] = device
    os.environ.setdefault("DS_BUILD_OPS", "0")


def prepare_wandb() -> str:
    """Return the mode of W&B, ``offline`` unless WANDB_MODE says another; its reports of errors are off."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    return os.environ.get("WANDB_MODE", "offline")


def child_environment(**changes: str) -> dict[str, str]:
    """Return the environment for a child process that is a world of its own: launcher variables removed."""
    own = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK"}
    own |= {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS"}
    own |= {"SLURM_JOB_NUM_NODES", "SLURM_NNODES"}
    prefixes = ("TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_", "MPI_LOCAL", "HYDI_", "SLURM_STEP_")
    kept = {key: value for key, value in os.environ.items() if key not in own and not key.startswith(prefixes)}
    return kept | changes
