"""The process group: where the ranks meet, and a sentence for the rank that is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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
    keys = [f"host/{rank}" for rank in range(world.size)]
    store: Store | None = None
    try:
        if world.launcher == "torchrun":  # torchrun itself listens at that address
            store = next(iter(rendezvous("env://", world.rank, world.size, timeout=limit)))[0]
        else:
            store = TCPStore(
                world.address, world.port, world.size, world.is_main, timeout=limit, wait_for_workers=False
            )
        store.set(keys[world.rank], world.host)
        store.wait(keys, limit)
        _Meeting.hosts = tuple(store.get(key).decode() for key in keys)
        return store
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if store is not None:
            with suppress(RuntimeError):
                absent = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
                if absent:
                    reason = f"rank {', '.join(absent)} never came in {seconds:g} s"
        raise UserError(_not_met(world, reason)) from None


def _not_met(world: World, reason: str) -> str:
    return f"rank {world.rank} on {world.host} did not meet the others at {world.address}:{world.port}: {reason}"


def _leave_word(world: World) -> None:
    """Tell the others that this rank ends of a cause of its own: they are not to take its node for lost."""
    if _Meeting.store is not None:
        with suppress(RuntimeError):
            _Meeting.store.set(f"ended/{world.rank}", "1")


def lost_rank(error: RuntimeError, world: World) -> Failure | None:
    """Return what to say where ``error`` means that ranks do not answer any more; None where it means something else.

    Every rank that notices leaves a sign in the store, so those without a sign are the lost ones. The store lives in
    rank 0 (with torchrun: beside it), so where it is gone, so is rank 0.
    """
    store = _Meeting.store
    if store is None or world.size == 1 or not any(word in str(error) for word in BROKEN):
        return None
    silent = [rank for rank in range(world.size) if rank != world.rank]
    try:
        store.set(f"noticed/{world.rank}", "1")
        end = time.monotonic() + GRACE_S
        while silent and time.monotonic() < end:
            silent = [rank for rank in silent if not store.check([f"noticed/{rank}"])]
            time.sleep(0.05)
    except RuntimeError:
        silent = [] if world.launcher == "torchrun" else [0]
    if not silent:
        return Lost(f"the ranks lost touch ({str(error).splitlines()[0][:120]}); start the same command again")
    who = ", ".join(f"rank {rank} on {_Meeting.hosts[rank]}" for rank in silent)
    kind = Failure if _said_why(store, silent) else Lost
    return kind(
        f"no sign of life from {who}, noticed by rank {world.rank} on {world.host}; see the messages of the lost rank, "
        "then start the same command again: it continues from the last checkpoint"
    )


def _said_why(store: Store, ranks: Sequence[int]) -> bool:
    """Tell whether one of these ranks has left word that it ends of a cause of its own."""
    with suppress(RuntimeError):  # the store is gone, with rank 0
        return any(store.check([f"ended/{rank}"]) for rank in ranks)
    return False
