"""Are these processes fit for the job? Each check says what it found and, where it failed, what to do."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fmsci
from fmsci.engine.collective import lost_rank, process_group
from fmsci.engine.device import pick_device
from fmsci.engine.probe import all_reduce_speed, clock_after_barrier, gather_facts
from fmsci.errors import UserError
from fmsci.files import discard, publish_file
from fmsci.locks import can_lock
from fmsci.terminal import amount
from fmsci.world import World, cores_per_process, gpus_of_job, hdf5_locks, num_cores, thread_limit

NEEDED_FREE_BYTES = 1 << 30
PACKAGES = ("torch", "h5py", "numpy", "safetensors", "mpi4py", "deepspeed")
NOT_ALWAYS = {"mpi4py": "fmsci generate on several ranks", "deepspeed": "engine.kind=zero"}
"""Packages that only some jobs need, and which."""
MEETING_S = 20.0
"""How long ranks wait for each other; with the start of the processes it is to be over within half a minute."""
MAX_SKEW_S = 5.0


@dataclass(frozen=True)
class Check:
    """One question: its name, what was found, and what to do where it failed (None where it passed)."""

    name: str
    found: str
    advice: str | None = None


def examine(world: World, folder: Path, generate: bool = False) -> list[Check]:
    """Return all checks, of this process and of what lies between the ranks; ``folder`` is where jobs will write.

    With ``generate`` also of what ``fmsci generate`` needs. Collective: all ranks call it. Rank 0 returns what failed
    on any of them, the others only their own.

    Raises UserError on the other ranks where they do not meet rank 0, Failure where one is lost.
    """
    own = [_versions(generate and world.size > 1), _device(world), _threads(world), *_folder(folder, world)]
    if world.size == 1:
        return [*own, Check("ranks", f"one, on {world.host}, launcher: {world.launcher}")]
    try:
        between = _between(world, folder, own)
        return between if world.is_main else own
    except (UserError, RuntimeError) as error:
        known = error if isinstance(error, UserError) else lost_rank(error, world)
        if known is None or not world.is_main:
            raise known or error from None
        return [*own, Check("ranks", str(known), NOT_MET)]


def _between(world: World, folder: Path, own: Sequence[Check]) -> list[Check]:
    """Return what the ranks find together, on rank 0; nothing on the others. UserError where they do not meet."""
    device = pick_device("auto", world)
    began = time.monotonic()
    with process_group(world, device, MEETING_S, rendezvous_s=MEETING_S):
        met_s = time.monotonic() - began
        token = folder / f".fmsci-doctor-{world.port}"
        if world.is_main and folder.is_dir():
            with suppress(UserError), publish_file(token) as temporary:  # where it cannot, a check says so
                temporary.write_text(world.host)
        right, speed = all_reduce_speed(device)
        facts = {
            "rank": world.rank,
            "host": world.host,
            "device": str(device),
            "sum_is_right": right,
            "clock": clock_after_barrier(),
            "sees_token": token.exists(),
            "checks": [asdict(check) for check in own],
        }
        found = gather_facts(facts, device)
        clock_after_barrier()  # all have looked
        if world.is_main:
            discard(token)
    if not world.is_main:
        return []
    wrong = [f"{fact['rank']} on {fact['host']}" for fact in found if not fact["sum_is_right"]]
    told = f"WRONG on rank {', '.join(wrong)}" if wrong else "right"
    return [
        *merge(found),
        Check("ranks", _hosts(found) + f", launcher: {world.launcher}"),
        Check("address", f"all met at {world.address}:{world.port} within {met_s:.1f} s"),
        Check("all-reduce", f"{told}, {amount(speed)}/s", BROKEN_SUM if wrong else None),
        *compare(found, folder),
    ]


NOT_MET = (
    "see whether each node finds that host (getent hosts NAME) and reaches that port; on a site with a second network "
    "set host_suffix in its file of configs/site; leave out a node that never answers (sbatch --exclude)"
)
BROKEN_SUM = "the network or its driver loses data: leave these nodes out (sbatch --exclude) and tell the site"


def merge(found: Sequence[dict[str, Any]]) -> list[Check]:
    """Return each rank's own checks as one: rank 0's where all passed, else the first that failed, with its rank."""
    merged = []
    for index, first in enumerate(found[0]["checks"]):
        every = [(fact, Check(**fact["checks"][index])) for fact in found if index < len(fact["checks"])]
        failed = [(fact, check) for fact, check in every if check.advice is not None]
        if failed:
            fact, check = failed[0]
            others = f" (and {len(failed) - 1} more ranks)" if len(failed) > 1 else ""
            where = f"rank {fact['rank']} on {fact['host']}{others}"
            merged.append(Check(check.name, f"{where}: {check.found}", check.advice))
        else:
            merged.append(Check(**first))
    return merged


def compare(found: Sequence[dict[str, Any]], folder: Path) -> list[Check]:
    """Return the checks of what must be equal, or different, between the ranks."""
    checks = []
    versions = Counter(fact["checks"][0]["found"] for fact in found)
    usual = versions.most_common(1)[0][0]
    other = [fact for fact in found if fact["checks"][0]["found"] != usual]
    if other:
        text = f"{other[0]['host']} has {other[0]['checks'][0]['found']}, others {usual}"
        checks.append(Check("same versions", text, "let every node use one environment, on a shared file system"))
    else:
        checks.append(Check("same versions", "on all ranks"))
    shared = [(fact["host"], fact["device"]) for fact in found if fact["device"] != "cpu"]
    twice = [pair for pair, count in Counter(shared).items() if count > 1 and pair[1] != "cuda:0"]
    if twice:
        text = f"several ranks on {twice[0][0]} use {twice[0][1]}"
        checks.append(Check("a device each", text, "start one task per GPU: --ntasks-per-node as --gpus-per-node"))
    if found[0]["sees_token"]:  # else rank 0 could not write there, which is told already
        blind = sorted({fact["host"] for fact in found if not fact["sees_token"]})
        advice = f"choose a folder on a file system that all nodes share, not {folder.resolve()}" if blind else None
        seen = f"not seen on {', '.join(blind)}" if blind else "seen by all ranks"
        checks.append(Check("shared folder", seen, advice))
    clocks = [fact["clock"] for fact in found]
    skew = max(clocks) - min(clocks)
    advice = "tell the site that the clocks of its nodes differ (NTP)" if skew > MAX_SKEW_S else None
    checks.append(Check("clocks", f"at most {skew:.2f} s apart", advice))
    return checks


def _hosts(found: Sequence[dict[str, Any]]) -> str:
    hosts = Counter(fact["host"] for fact in found)
    shown = ", ".join(f"{host} ({count})" for host, count in list(hosts.items())[:8])
    return f"{len(found)} on {len(hosts)} hosts: {shown}" + (", ..." if len(hosts) > 8 else "")


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
    return Check("device", "no GPU, computing on CPU")


def _threads(world: World) -> Check:
    cores, limit = cores_per_process(world), thread_limit()
    found = f"{num_cores()} cores, {cores} for each process"
    if limit is None:
        return Check("threads", found)
    advice = f"export OMP_NUM_THREADS={cores}" if limit > cores else None
    return Check("threads", f"{found}, OMP_NUM_THREADS={limit}", advice)


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
