"""The process group: where the ranks meet, and a sentence for the rank that is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from fmsci.errors import Failure, Lost, UserError
from fmsci.world import World, allow_open_files

GRACE_S = 8.0
"""How long a rank that lost the others waits for signs of life before it says who is missing."""

ANSWER_S = 5.0
"""So much longer the others wait for what one of them finds out."""

NAMED = 8
"""So many ranks are named, the first of them."""

PATIENCE = timedelta(days=7)
"""For what rank 0 does at the start while the others wait."""

BROKEN = (
    "gloo",
    "NCCL",
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "Timed out",
    "timed out",
    "wait timeout",
)
"""Words of torch's errors when ranks do not answer each other any more."""


class _Meeting:
    """Where the ranks of the current group met: their store, and the host of each."""

    store: Store | None = None
    hosts: tuple[str, ...] = ()


@contextmanager
def process_group(
    world: World, device: torch.device, timeout_s: float, rendezvous_s: float = 60.0, always: bool = False
) -> Iterator[None]:
    """Join the ranks for the time of the block; a world of one needs no group, unless ``always``.

    Raises UserError where the address of rank 0 is unknown or the ranks do not all come in ``rendezvous_s``, and
    Failure where a rank is lost inside the block.
    """
    if world.size == 1 and not always:
        yield
        return
    allow_open_files()
    store = _meet(world, rendezvous_s)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend,
            store=PrefixStore("group", store),
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=timeout_s),
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(_not_met(world, str(error).splitlines()[0])) from None
    _Meeting.store = store
    try:
        yield
    except RuntimeError as error:
        failure = lost_rank(error, world)
        if failure is None:
            _leave_word(world)
            dist.destroy_process_group()
            raise
        raise failure from None  # the group is broken: to end it in order could wait for the lost rank
    except Failure:
        raise
    except BaseException:
        _leave_word(world)
        dist.destroy_process_group()
        raise
    else:
        dist.destroy_process_group()
    finally:
        _Meeting.store = None


def _meet(world: World, seconds: float) -> Store:
    """Return the store that all ranks share, once all have come to it."""
    if world.size == 1:
        return HashStore()
    if world.address is None or world.port is None:
        raise UserError(
            "the ranks are on several hosts: set MASTER_ADDR to the host of rank 0 and MASTER_PORT to a free port"
        )
    limit = timedelta(seconds=seconds)
    store: Store | None = None
    try:
        if world.launcher == "torchrun":  # torchrun itself listens at that address
            store = next(iter(rendezvous("env://", world.rank, world.size, timeout=limit)))[0]
        else:
            store = TCPStore(
                world.address, world.port, world.size, world.is_main, timeout=limit, wait_for_workers=False
            )
        store.set(f"host/{world.rank}", world.host)
        if world.is_main:  # for all: a thousand ranks that each ask for a thousand hosts are a million questions
            keys = [f"host/{rank}" for rank in range(world.size)]
            store.wait(keys, limit)
            store.set("hosts", json.dumps([store.get(key).decode() for key in keys]))
        store.wait(["hosts"], limit)
        _Meeting.hosts = tuple(json.loads(store.get("hosts")))
        return store
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if store is not None:
            with suppress(RuntimeError):
                absent = _asked_by_one(store, "absent", lambda: without(store, "host", range(world.size)))
                if absent:
                    reason = f"rank {_listed(absent)} never came in {seconds:g} s"
        raise UserError(_not_met(world, reason)) from None


def _not_met(world: World, reason: str) -> str:
    return f"rank {world.rank} on {world.host} did not meet the others at {world.address}:{world.port}: {reason}"


@contextmanager
def main_first(world: World, what: str) -> Iterator[None]:
    """Let rank 0 do what may take long in the block before any other goes on: no collective waits for it, which would
    run out of its time. ``what`` names it, once in a group."""
    store = _Meeting.store
    if store is not None and world.size > 1 and not world.is_main:
        store.wait([what], PATIENCE)
    try:
        yield
    finally:
        if store is not None and world.is_main:
            store.set(what, "1")


def _leave_word(world: World) -> None:
    """Tell the others that this rank ends of a cause of its own: they are not to take its node for lost."""
    if _Meeting.store is not None:
        with suppress(RuntimeError):
            _Meeting.store.add("ended", 1)


def without(store: Store, key: str, ranks: Sequence[int]) -> list[int]:
    """Return those of some ranks that have not set ``KEY/RANK``. By halves, as hardly any is missing: few questions."""
    if not ranks or store.check([f"{key}/{rank}" for rank in ranks]):
        return []
    if len(ranks) == 1:
        return list(ranks)
    half = len(ranks) // 2
    return without(store, key, ranks[:half]) + without(store, key, ranks[half:])


def _asked_by_one(store: Store, key: str, ask: Callable[[], list[int]], seconds: float = 0.0) -> list[int]:
    """Return what the first rank that comes here finds, which takes about ``seconds``.

    If each asked for itself, a thousand ranks would ask the one store a million questions, when it is to answer soon.
    """
    if store.add(f"{key}/asked", 1) > 1:
        with suppress(RuntimeError):  # no answer: that rank is gone by now
            store.wait([key], timedelta(seconds=seconds + ANSWER_S))
            found: list[int] = json.loads(store.get(key))
            return found
    found = ask()
    store.set(key, json.dumps(found))
    return found


def lost_rank(error: RuntimeError, world: World) -> Failure | None:
    """Return what to say where ``error`` means that ranks do not answer any more; None where it means something else.

    Every rank that notices leaves a sign in the store, so those without a sign are the lost ones. The store lives in
    rank 0 (with torchrun: beside it), so where it is gone, so is rank 0.
    """
    store = _Meeting.store
    if store is None or world.size == 1 or not any(word in str(error) for word in BROKEN):
        return None
    said_why = False
    try:
        store.set(f"noticed/{world.rank}", "1")
        store.add("noticed", 1)
        silent = _asked_by_one(store, "silent", lambda: _silent(store, world.size), GRACE_S)
        # Some of them may have noticed since, this one among them; of many that would be too many questions.
        few = len(silent) <= NAMED
        silent = without(store, "noticed", silent) if few else [rank for rank in silent if rank != world.rank]
        said_why = _said_why(store)
        store.add("silent/heard", 1)
        if world.is_main:
            _stay(store)
    except RuntimeError:
        silent = [] if world.launcher == "torchrun" else [0]
    if not silent:
        return Lost(f"the ranks lost touch ({str(error).splitlines()[0][:120]}); start the same command again")
    who = _listed(silent, [f"rank {rank} on {_Meeting.hosts[rank]}" for rank in silent[:NAMED]])
    kind = Failure if said_why else Lost
    return kind(
        f"no sign of life from {who}, noticed by rank {world.rank} on {world.host}; see the messages of the lost rank, "
        "then start the same command again: it continues from the last checkpoint"
    )


def _silent(store: Store, size: int) -> list[int]:
    """Wait for signs of all ranks; return those that left none."""
    end = time.monotonic() + GRACE_S
    while store.add("noticed", 0) < size and time.monotonic() < end:
        time.sleep(0.05)
    return without(store, "noticed", range(size))


def _stay(store: Store) -> None:
    """Wait until those who noticed have heard who is lost: the store goes with this process."""
    end = time.monotonic() + ANSWER_S
    while store.add("silent/heard", 0) < store.add("silent/asked", 0) and time.monotonic() < end:
        time.sleep(0.05)


def _listed(ranks: Sequence[int], words: Sequence[str] | None = None) -> str:
    """Name some ranks, the first few of many: each that is left says so."""
    more = f" and {len(ranks) - NAMED} more" if len(ranks) > NAMED else ""
    return ", ".join(words or map(str, ranks[:NAMED])) + more


def _said_why(store: Store) -> bool:
    """Tell whether one of the silent ranks has left word that it ends of a cause of its own."""
    with suppress(RuntimeError):  # the store is gone, with rank 0
        return store.add("ended", 0) > 0
    return False
