"""Is this machine fit for the job? Each check says what it found and, where it failed, what to do."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fmsci.engine.device import pick_device
from fmsci.errors import UserError
from fmsci.files import publish_file
from fmsci.terminal import amount
from fmsci.world import World, cores_per_process, num_cores, thread_limit

NEEDED_FREE_BYTES = 1 << 30
PACKAGES = ("torch", "h5py", "numpy", "mpi4py")


@dataclass(frozen=True)
class Check:
    """One question: its name, what was found, and what to do where it failed (None where it passed)."""

    name: str
    found: str
    advice: str | None = None


def examine(world: World, folder: Path) -> list[Check]:
    """Return all checks for this process and the folder that jobs will write to."""
    return [_versions(world), _ranks(world), _device(world), _threads(world), *_folder(folder, world)]


def _versions(world: World) -> Check:
    found = [f"Python {sys.version_info.major}.{sys.version_info.minor}"]
    missing = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing == ["mpi4py"] and world.size == 1:
        found.append("no mpi4py (data are made by one process)")
        missing = []
    return Check("versions", ", ".join(found), f"pip install {' '.join(missing)}" if missing else None)


def _ranks(world: World) -> Check:
    return Check("ranks", f"rank {world.rank} of {world.size} on {world.host}, launcher: {world.launcher}")


def _device(world: World) -> Check:
    device = pick_device("auto", world)
    return Check("device", "no GPU, computing on CPU" if device.type == "cpu" else str(device))


def _threads(world: World) -> Check:
    cores, limit = cores_per_process(world), thread_limit()
    found = f"{num_cores()} cores, {cores} for each process"
    if limit is None:
        return Check("threads", found)
    advice = f"export OMP_NUM_THREADS={cores}" if limit > cores else None
    return Check("threads", f"{found}, OMP_NUM_THREADS={limit}", advice)


def _folder(folder: Path, world: World) -> list[Check]:
    trial = folder / f".fmsci-doctor-{world.rank}"
    try:
        with publish_file(trial) as temporary:
            temporary.write_bytes(b"doctor")
        trial.unlink()
    except UserError as error:
        return [Check("write access", str(error), f"choose a folder that you may write to, not {folder}")]
    free = shutil.disk_usage(folder).free
    advice = f"free at least {amount(NEEDED_FREE_BYTES)} there" if free < NEEDED_FREE_BYTES else None
    return [Check("write access", str(folder.resolve())), Check("free space", amount(free), advice)]
