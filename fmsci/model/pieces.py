"""How much of a batch is worked on at once: on a CPU what fits into a core's cache, on a GPU everything."""

from __future__ import annotations

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


def part_of(values: list[Tensor], index: int, at_once: int) -> list[Tensor]:
    """Return the piece ``index`` of each of ``values``."""
    return [one[index * at_once : (index + 1) * at_once] for one in values]
