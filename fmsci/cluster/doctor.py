"""Are these processes fit for the job? Each check says what it found and, where it failed, what to do."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fmsci.cluster.own_checks import Check, own_checks
from fmsci.config.sections import EngineSettings
from fmsci.engine.device import HOST, device_identity, pick_device
from fmsci.engine.group import process_group
from fmsci.engine.probe import all_reduce_speed, clock_after_barrier, gather_facts, host_group
from fmsci.errors import Failure, UserError
from fmsci.files import discard, publish_file
from fmsci.terminal import amount
from fmsci.world import World, job_hosts

MEETING_S = 18.0
"""How long the ranks of one host wait for each other until all have come. On several hosts: as long as in training."""
GROUP_S = 12.0
"""How long they wait for each answer then."""
REST_S = 7.0
"""What is left for all but the meeting: on one host all ends in half a minute, with the start of the processes."""
RANK_S = 0.05
"""By so much each of these waits is longer for each rank: thousands of processes do not start at once."""
MAX_SKEW_S = 5.0

Doing = Callable[[str], None]


def meeting_s(world: World) -> float:
    """Return how long the ranks wait for each other until all have come."""
    longest = MEETING_S if world.local_size == world.size else max(MEETING_S, EngineSettings().rendezvous_s)
    return longest + RANK_S * world.size


def limit_s(world: World) -> float:
    """Return within how many seconds all of it ends."""
    return meeting_s(world) + REST_S + RANK_S * world.size


def examine(world: World, folder: Path, generate: bool = False, doing: Doing = lambda what: None) -> list[Check]:
    """Return all checks, of this process and of what lies between the ranks; ``folder`` is where jobs will write.

    With ``generate`` also of what ``fmsci generate`` needs; ``doing`` hears what is looked at next. Collective: all
    ranks call it. Rank 0 returns what failed on any of them, the others only their own.

    Raises UserError on the other ranks where they do not meet rank 0, Failure where one is lost.
    """
    own = own_checks(world, folder, generate, doing)
    if world.size == 1:
        return [*own, Check("ranks", f"one, on {world.host}, launcher: {world.launcher}")]
    try:
        between = _between(world, folder, generate, own, doing)
        return between if world.is_main else own
    except (UserError, Failure) as error:
        if not world.is_main:
            raise
        return [*own, Check("ranks", str(error), NOT_MET)]


@contextmanager
def bounded(seconds: float, give_up: Callable[[str], None]) -> Iterator[Doing]:
    """Call ``give_up`` with what is under way where the block takes longer; it is to end the process.

    What hangs in the kernel, a file system or a driver, is left by nothing else.
    """
    under_way = ["the start"]
    timer = threading.Timer(seconds, lambda: give_up(under_way[-1]))
    timer.daemon = True
    timer.start()
    try:
        yield under_way.append
    finally:
        timer.cancel()


def _between(world: World, folder: Path, generate: bool, own: Sequence[Check], doing: Doing) -> list[Check]:
    """Return what the ranks find together, on rank 0; nothing on the others. UserError where they do not meet."""
    device = HOST if generate else pick_device("auto", world)  # tasks that make data may be more than GPUs
    doing(f"the meeting of {world.size} ranks at {world.address}:{world.port}")
    began = time.monotonic()
    answer_s = GROUP_S + RANK_S * world.size
    with process_group(world, device, answer_s, rendezvous_s=meeting_s(world)):
        met_s = time.monotonic() - began
        doing("an exchange between the hosts")
        hosts = host_group(answer_s)
        place = {"rank": world.rank, "host": world.host, "device": device_identity(device)}
        places = gather_facts(place, HOST, hosts)
        met = [
            Check("ranks", _hosts(places) + f", launcher: {world.launcher}"),
            Check("address", f"all met at {world.address}:{world.port} within {met_s:.1f} s"),
            *_nodes(places, job_hosts()),
            *_devices(places),
        ]
        if any(check.name == "a device each" and check.advice for check in met):
            return [*own, *met] if world.is_main else []  # NCCL refuses them
        token = folder / f".fmsci-doctor-{world.port}"
        doing(f"a file in {folder} that all ranks look for")
        with _shown(token) if world.is_main and folder.is_dir() else nullcontext():
            doing("the all-reduce")
            right, speed = all_reduce_speed(device)
            facts = {
                **place,
                "sum_is_right": right,
                "clock": clock_after_barrier(),
                "sees_token": token.exists(),
                "checks": [asdict(check) for check in own],
            }
            doing("an exchange between the hosts")
            found = gather_facts(facts, HOST, hosts)
            clock_after_barrier()  # all have looked
    if not world.is_main:
        return []
    return [*merge(found), *met, _sum(found, speed), *compare(found, folder)]


@contextmanager
def _shown(token: Path) -> Iterator[None]:
    """Hold a file there for the time of the block, also where that ends in an error. Its place may be unwritable."""
    discard(token)  # what a look that was killed has left does not tell that this one could write
    try:
        with suppress(UserError), publish_file(token) as temporary:  # where it cannot, a check says so
            temporary.write_text(token.name)
        yield
    finally:
        discard(token)


NOT_MET = (
    "see whether each node finds that host (getent hosts NAME) and reaches that port; on a site with a second network "
    "set host_suffix in its file of configs/site; leave out a node that never answers (sbatch --exclude)"
)
STEP_ON_ALL = "start one step on all nodes of the job, from a shell without the variables of an older one"
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


def _sum(found: Sequence[dict[str, Any]], speed: float) -> Check:
    wrong = [f"{fact['rank']} on {fact['host']}" for fact in found if not fact["sum_is_right"]]
    told = f"WRONG on rank {', '.join(wrong)}" if wrong else "right"
    return Check("all-reduce", f"{told}, {amount(speed)}/s", BROKEN_SUM if wrong else None)


def _devices(places: Sequence[dict[str, Any]]) -> list[Check]:
    """Return whether each rank has a GPU of its own; nothing where there is none."""
    ranks: dict[tuple[str, str], list[str]] = {}
    for place in places:
        if place["device"] is not None:
            ranks.setdefault((place["host"], place["device"]), []).append(str(place["rank"]))
    if not ranks:
        return []
    for (host, device), several in ranks.items():
        if len(several) > 1:
            text = f"ranks {', '.join(several)} on {host} use the same one, {device}"
            advice = "start one task per GPU: --ntasks-per-node as --gpus-per-node"
            return [Check("a device each", text, advice)]
    return [Check("a device each", f"{len(ranks)} GPUs")]


def _nodes(places: Sequence[dict[str, Any]], expected: Sequence[str]) -> list[Check]:
    """Return whether there is a rank on each node of the job, and nowhere else; nothing outside a job.

    Where host names are others than Slurm's names of the nodes, they are counted only.
    """
    if not expected:
        return []
    hosts = {place["host"].partition(".")[0].lower(): None for place in places}
    nodes = {name.partition(".")[0].lower(): name for name in expected}
    common = hosts.keys() & nodes.keys()
    missing = [name for short, name in nodes.items() if short not in hosts] if common else []
    strange = [host for host in hosts if host not in nodes] if common else []
    if not common and len(hosts) < len(nodes):
        missing = [f"{len(nodes) - len(hosts)} of them"]
    if not missing and not strange:
        return [Check("nodes", f"a rank on each of the job's {len(nodes)}")]
    parts = [f"no rank on {', '.join(missing[:8])}"] if missing else []
    parts += [f"ranks on {', '.join(strange[:8])}, of another job"] if strange else []
    return [Check("nodes", f"{'; '.join(parts)} (the job has {', '.join(expected[:8])})", STEP_ON_ALL)]


def _hosts(found: Sequence[dict[str, Any]]) -> str:
    hosts = Counter(fact["host"] for fact in found)
    shown = ", ".join(f"{host} ({count})" for host, count in list(hosts.items())[:8])
    return f"{len(found)} on {len(hosts)} hosts: {shown}" + (", ..." if len(hosts) > 8 else "")
