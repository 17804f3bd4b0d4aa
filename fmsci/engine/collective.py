"""The process group: start, stop, and the few sums that ranks agree on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from fmsci.errors import UserError
from fmsci.world import World


@contextmanager
def process_group(world: World, device: torch.device, timeout_s: float) -> Iterator[None]:
    """Join the ranks for the time of the block; a world of one needs no group.

    Raises UserError where the address of rank 0 is unknown or cannot be reached in time.
    """
    if world.size == 1:
        yield
        return
    if world.address is None or world.port is None:
        raise UserError(
            "the ranks are on several hosts: set MASTER_ADDR to the host of rank 0 and MASTER_PORT to a free port"
        )
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            # torchrun itself listens at that address; only its own variables tell the ranks to join instead of listen.
            init_method="env://" if world.launcher == "torchrun" else f"tcp://{world.address}:{world.port}",
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=timeout_s),
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"rank {world.rank} on {world.host} did not meet the others at {world.address}:{world.port}: {reason}"
        ) from None
    try:
        yield
    finally:
        dist.destroy_process_group()


def total(values: Sequence[float], device: torch.device) -> list[float]:
    """Return the sums over all ranks, in float64. Collective."""
    tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return [float(value) for value in tensor.tolist()]
