"""How much of a batch is worked on at once: on a CPU what fits into the cores' caches, on a GPU everything."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CACHE_BYTES = 1 << 20
"""A piece of a field has about this size for each thread: it stays in the cores' own caches."""

SHARED_BYTES = 4 << 20
"""One that is read once and worked on at length has about this: fewer starts count more (docs/benchmarks.md)."""


def count_at_once(values: Tensor, bytes_of_one: int, shared: bool = False) -> int:
    """Return how many of ``values``' first axis make a piece, at least one."""
    if values.device.type != "cpu":
        return len(values)
    return max(1, (SHARED_BYTES if shared else CACHE_BYTES) * torch.get_num_threads() // bytes_of_one)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` of one piece to ``total``, which may be of a higher precision."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += torch.mm(left, right)


def pieces(at_once: int, rows: int, *values: Tensor, back: bool = False) -> Iterator[tuple[Tensor, ...]]:
    """Yield tensors of so many ``rows`` piece by piece, ``at_once`` rows of each: views of all of them each time.

    A row is one of their first axis, or as many as that axis is longer. ``back``: the last piece first. A step goes
    through a field in the direction opposite to the time before: its last pieces may still be in the cache.
    """
    split = (torch.split(one, at_once * (len(one) // rows)) for one in values)
    return zip(*(one[::-1] if back else one for one in split), strict=True)


def points_first(field: Tensor) -> Tensor:
    """Return (B, H, W, C) as (H, W, B, C), all samples of a point together: on a CPU layers leave their fields so."""
    return field.permute(1, 2, 0, 3).contiguous()


def samples_first(field: Tensor) -> Tensor:
    """Return (H, W, B, C) seen as (B, H, W, C)."""
    return field.permute(2, 0, 1, 3)
