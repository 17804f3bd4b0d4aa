"""How the kernels for a GPU cut their work into tiles; measured on one GPU, they change no number but by rounding."""

from __future__ import annotations

import torch

WIDEST = 128
"""Channels up to which a tile of a field fits beside its matrices."""

NARROWEST = 16
"""A matrix unit's shortest side."""

USUAL: dict[str, dict[str, int]] = {
    "analyse": {"BJ": 64, "BX": 64, "BG": 128, "num_warps": 4, "num_stages": 3},
    "mix": {"BB": 64, "BI": 32, "BO": 64, "num_warps": 4, "num_stages": 2},
    "mix_grad": {"BB": 32, "BI": 64, "BO": 64, "num_warps": 4, "num_stages": 2},
    "synthesise": {"BX": 128, "BJ": 64, "BC": WIDEST, "ROWS": 4, "num_warps": 4, "num_stages": 2},
    "descend": {"BX": 64, "BJ": 64, "BC": WIDEST, "programs": 528, "num_warps": 4, "num_stages": 2},
    "head": {"BP": 64, "BN": 64, "BC": WIDEST, "num_warps": 4, "num_stages": 2},
    "head_grad_v": {"BP": 64, "BN": 64, "BC": WIDEST, "num_warps": 4, "num_stages": 2},
    "head_grad_weights": {"BP": 64, "BN": 64, "BC": WIDEST, "programs": 264, "num_warps": 4, "num_stages": 2},
}
"""Kernel -> sides of a tile and warps of a program."""

BETTER: dict[tuple[str, int, int], dict[str, int]] = {}
"""(kernel, channels of a tile, bytes of a number) -> what is another number there."""


def tiles(kernel: str, channels: int, dtype: torch.dtype, **lengths: int) -> dict[str, int]:
    """Return the launch arguments of a kernel for ``channels``; no side is longer than what it has to cover needs.

    ``lengths``: side -> the length that it covers.
    """
    chosen = USUAL[kernel] | BETTER.get((kernel, _side(channels), dtype.itemsize), {})
    return chosen | {name: min(chosen[name], _side(length)) for name, length in lengths.items()}


def cdiv(length: int, tile: int) -> int:
    """Return how many tiles cover a length."""
    return -(-length // tile)


def _side(length: int) -> int:
    """Return the shortest side of a tile that covers a length: a power of two."""
    return max(NARROWEST, 1 << (length - 1).bit_length())
