"""The process group: meeting, agreeing on a few numbers, and a sentence for the rank that is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from fmsci.errors import Failure, Lost, SettingsError, UserError
from fmsci.world import World

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


def total(values: Sequence[float], device: torch.device) -> list[float]:
    """Return the sums over all ranks, in float64. Collective."""
    tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return [float(value) for value in tensor.tolist()]


def by_rank(values: Sequence[float], device: torch.device) -> list[list[float]]:
    """Return the values of every rank, in rank order, on every rank; equally many on each. Collective."""
    if not dist.is_initialized():
        return [list(values)]
    mine = torch.tensor(list(values), dtype=torch.float64, device=device)
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    return [[float(value) for value in one.tolist()] for one in found]


def decided_by_main(world: World, device: torch.device, decide: Callable[[], float]) -> float:
    """Return what rank 0 finds, on every rank; its mistake ends them all. Collective.

    One rank looks for all: on a shared file system another might still see an older folder.
    """
    mistake: Exception | None = None
    value = 0.0
    if world.is_main:
        try:
            value = decide()
        except Exception as error:  # whatever it is, the others must not wait for its sum
            mistake = error
    failed, value = total([float(mistake is not None), value], device)
    if mistake is not None:
        raise mistake
    if failed:
        raise SettingsError("rank 0 has said what is wrong")
    return value


class Agreement:
    """Sums of a few numbers over the ranks that no device waits for: asked in one step, answered in the next.

    They travel between the hosts, beside the device's own collectives, while the step is computed.
    """

    def __init__(self, timeout_s: float) -> None:
        several = dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s)) if several else None
        self._asked: tuple[torch.Tensor, dist.Work] | None = None

    @property
    def delayed(self) -> bool:
        """Whether an answer is to what was asked the time before."""
        return self._group is not None

    def exchange(self, values: Sequence[float]) -> list[float]:
        """Ask for the sums of ``values``; return those asked for the last time, zeros at first. Collective.

        A process alone has its own values at once.
        """
        if self._group is None:
            return list(values)
        answer = self.close() or [0.0] * len(values)
        tensor = torch.tensor(list(values), dtype=torch.float64)
        work = dist.all_reduce(tensor, group=self._group, async_op=True)
        assert work is not None
        self._asked = tensor, work
        return answer

    def close(self) -> list[float] | None:
        """Wait for the sums under way and return them, or None. Collective."""
        if self._asked is None:
            return None
        tensor, work = self._asked
        self._asked = None
        work.wait()
        return [float(value) for value in tensor.tolist()]
