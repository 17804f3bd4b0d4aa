"""Which device this rank computes on."""

from __future__ import annotations

import torch

from fmsci.errors import UserError
from fmsci.world import World, cores_per_process, thread_limit


def pick_device(wanted: str, world: World) -> torch.device:
    """Return this rank's device; UserError where a GPU is asked for and there is none."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("engine.device is cuda but torch sees no GPU here; use engine.device=cpu or a GPU node")
    # With one GPU visible to each task its index is 0, whatever the local rank.
    device = torch.device("cuda", world.local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def free_memory() -> None:
    """Give back what this process holds on the GPU for its next tensors: another process may need it."""
    torch.cuda.empty_cache()  # nothing where no GPU is in use


def set_threads(wanted: int | None, world: World) -> None:
    """Compute with ``wanted`` CPU threads, else OMP_NUM_THREADS, else this process's share of the cores."""
    torch.set_num_threads(wanted or thread_limit() or cores_per_process(world))
