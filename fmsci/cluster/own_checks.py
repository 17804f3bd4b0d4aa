"""What one process finds of itself: versions, device, threads, the folder. What failed comes with what to do."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import fmsci
from fmsci.engine.device import pick_device
from fmsci.errors import UserError
from fmsci.files import publish_file
from fmsci.locks import can_lock
from fmsci.model.compiled import load
from fmsci.terminal import amount
from fmsci.world import (
    World,
    cores_per_process,
    gpus_of_job,
    hdf5_locks,
    num_cores,
    thread_limit,
    threads_per_process,
)

NEEDED_FREE_BYTES = 1 << 30
PACKAGES = ("torch", "h5py", "numpy", "safetensors", "mpi4py", "deepspeed")
NOT_ALWAYS = {"mpi4py": "fmsci generate on several ranks", "deepspeed": "engine.kind=zero"}
"""Packages that only some jobs need, and which."""


@dataclass(frozen=True)
class Check:
    """One question: its name, what was found, and what to do where it failed (None where it passed)."""

    name: str
    found: str
    advice: str | None = None


def own_checks(world: World, folder: Path, generate: bool, doing: Callable[[str], None]) -> list[Check]:
    """Return this process's checks; ``doing`` hears what comes next, since a file system may hang.

    Those of the folder come from the first process of each host alone.
    """
    doing("versions")
    checks = [_versions(generate and world.size > 1)]
    doing("the device")
    checks += [Check("device", "CPU, on which data are made") if generate else _device(world), _threads(world)]
    doing(f"a file in {folder}")
    if world.local_rank != 0:  # one of each host tries the folder: for thousands in one, its server takes long
        return checks
    return [*checks, *_folder(folder, world)]


def _versions(several_make_data: bool) -> Check:
    """Return the versions of what is installed; a package that this job can do without is only told as missing."""
    found = [f"fmsci {fmsci.__version__}", f"Python {sys.version_info.major}.{sys.version_info.minor}"]
    missing = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            if package not in NOT_ALWAYS or (package == "mpi4py" and several_make_data):
                missing.append(package)
            else:
                found.append(f"no {package} (only {NOT_ALWAYS[package]} needs it)")
    if not missing:
        return Check("versions", ", ".join(found))
    return Check("versions", f"no {', '.join(missing)}; {', '.join(found)}", f"pip install {' '.join(missing)}")


def _device(world: World) -> Check:
    device = pick_device("auto", world)
    if device.type != "cpu":
        return Check("device", str(device))
    if gpus_of_job():
        return Check("device", "the job has GPUs but torch sees none", "install a torch that is built for these GPUs")
    functions, why_not = load()
    how = "with its compiled functions" if functions else f"without its compiled functions: {why_not}"
    return Check("device", f"no GPU, computing on CPU {how}")


def _threads(world: World) -> Check:
    cores, limit = cores_per_process(world), thread_limit()
    used = threads_per_process(world)
    found = f"a process has {cores} of {num_cores()} cores and trains with {used} thread{'' if used == 1 else 's'}"
    if not limit:
        return Check("threads", found)
    advice = f"export OMP_NUM_THREADS={cores}" if limit > cores else None
    return Check("threads", f"{found}, as OMP_NUM_THREADS says", advice)


def _folder(folder: Path, world: World) -> list[Check]:
    """Try to write, in a folder that is there: a look leaves nothing behind."""
    if not folder.is_dir():
        what = f"{folder} is a file" if folder.exists() else f"there is no folder {folder.absolute()}"
        return [Check("write access", what, "make it (mkdir -p), or name the folder that jobs will write to")]
    trial = folder / f".fmsci-doctor-{world.host}-{world.rank}"
    try:
        with publish_file(trial) as temporary:
            temporary.write_bytes(b"doctor")
        locks = can_lock(trial)
        trial.unlink()
    except UserError as error:
        return [Check("write access", str(error), f"choose a folder that you may write to, not {folder}")]
    free = shutil.disk_usage(folder).free
    advice = f"free at least {amount(NEEDED_FREE_BYTES)} there" if free < NEEDED_FREE_BYTES else None
    return [
        Check("write access", str(folder.resolve())),
        Check("free space", amount(free), advice),
        _locks(locks),
    ]


def _locks(work: bool) -> Check:
    if work:
        return Check("file locks", "work")
    advice = "export HDF5_USE_FILE_LOCKING=FALSE" if hdf5_locks() else None
    return Check("file locks", "not on this file system" + ("" if advice else "; HDF5 is told to do without"), advice)
