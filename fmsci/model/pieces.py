"""How much of a batch is worked on at once: on a CPU what fits into a core's cache, on a GPU everything."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CACHE_BYTES = 1 << 20
"""A piece of a field has about this size."""


def count_at_once(values: Tensor, bytes_of_one: int) -> int:
    """Return how many of ``values``' first axis make a piece, at least one."""
    return max(1, CACHE_BYTES // bytes_of_one if values.device.type == "cpu" else len(values))


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` of one piece to ``total``, which may be of a higher precision."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += torch.mm(left, right)


def pieces(at_once: int, *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield tensors of one length piece by piece, ``at_once`` of their first axis: views of all of them each time."""
    return zip(*(torch.split(one, at_once) for one in values), strict=True)
