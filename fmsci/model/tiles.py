"""How the kernels for a GPU cut their work into tiles; measured on one GPU, they change no number but by rounding."""

from __future__ import annotations

from typing import Any

import torch

from fmsci.model.sizes import WIDEST

NARROWEST = 16
"""A matrix unit's shortest side."""

USUAL: dict[str, dict[str, int]] = {
    "analyse": {"BJ": 64, "BX": 64, "BG": 128, "num_warps": 4, "num_stages": 3},
    "mix": {"BB": 64, "BI": 32, "BO": 64, "num_warps": 4, "num_stages": 2},
    "mix_grad": {"BB": 32, "BI": 64, "BO": 64, "num_warps": 4, "num_stages": 2},
    "synthesise": {"BX": 128, "BJ": 64, "BC": WIDEST, "BCI": WIDEST, "ROWS": 4, "num_warps": 4, "num_stages": 2},
    "descend": {"BX": 64, "BJ": 64, "BC": WIDEST, "programs": 528, "num_warps": 4, "num_stages": 2},
    "descend_z": {"BX": 32, "BJ": 64, "BC": WIDEST, "programs": 132, "num_warps": 8, "num_stages": 2},
    "descend_a": {"BX": 64, "BJ": 64, "BC": WIDEST, "programs": 132, "num_warps": 8, "num_stages": 2},
    "outer": {"BP": 64, "BC": WIDEST, "BCI": WIDEST, "programs": 264, "num_warps": 4, "num_stages": 3},
    "head": {"BP": 64, "BN": 64, "BC": WIDEST, "num_warps": 4, "num_stages": 2},
    "head_grad_v": {"BP": 64, "BN": 64, "BC": WIDEST, "num_warps": 4, "num_stages": 2},
    "head_grad_weights": {"BP": 64, "BN": 64, "BC": WIDEST, "programs": 264, "num_warps": 4, "num_stages": 2},
}
"""Kernel -> sides of a tile and warps of a program."""

BETTER: dict[tuple[str, int, str], dict[str, int]] = {
    ("analyse", 32, "bf16"): {"BG": 64},
    ("analyse", 32, "tf32"): {"BG": 64, "BX": 32, "num_stages": 2},
    ("analyse", 32, "bf16x6"): {"BX": 32},
    ("analyse", 32, "tf32x3"): {"BX": 32, "BG": 64},
    ("analyse", 128, "tf32"): {"BG": 64, "BX": 32},
    ("analyse", 128, "bf16x6"): {"BX": 32},
    ("mix", 32, "bf16"): {"BB": 32},
    ("mix", 32, "tf32"): {"BB": 32, "num_warps": 2},
    ("mix", 128, "bf16"): {"BB": 32, "BI": 64, "num_warps": 2},
    ("mix", 128, "tf32"): {"BB": 32, "BI": 64},
    ("mix", 128, "tf32x3"): {"BB": 32, "BI": 16, "BO": 128, "num_stages": 3},
    ("mix_grad", 128, "bf16"): {"BO": 128},
    ("mix_grad", 128, "tf32"): {"BI": 128, "BO": 128, "num_warps": 8},
    ("mix_grad", 128, "tf32x3"): {"BI": 128, "num_warps": 8},
    ("synthesise", 32, "bf16"): {"BX": 64, "ROWS": 16, "num_stages": 3},
    ("synthesise", 32, "tf32"): {"ROWS": 16, "num_warps": 8, "num_stages": 3},
    ("synthesise", 128, "bf16"): {"ROWS": 16, "num_warps": 8, "num_stages": 3},
    ("synthesise", 128, "tf32"): {"BX": 64, "ROWS": 16, "num_warps": 8},
    ("synthesise", 128, "bf16x6"): {"ROWS": 16, "num_warps": 8, "num_stages": 1},
    ("synthesise", 128, "tf32x3"): {"ROWS": 16, "num_warps": 8, "num_stages": 1},
    ("descend", 32, "bf16"): {"BX": 128, "programs": 264, "num_warps": 8, "num_stages": 3},
    ("descend", 32, "tf32"): {"BX": 128, "programs": 132, "num_warps": 8, "num_stages": 3},
    ("descend", 32, "tf32x3"): {"programs": 264},
    ("descend", 128, "bf16"): {"BX": 16, "programs": 264, "num_stages": 3},
    ("descend", 128, "tf32"): {"BX": 32, "programs": 132, "num_warps": 8, "num_stages": 3},
    ("descend_a", 128, "bf16x6"): {"num_stages": 1},
    ("head", 32, "bf16"): {"BP": 128, "BN": 32},
    ("head", 32, "tf32"): {"BP": 128, "BN": 32},
    ("head", 128, "bf16"): {"BP": 128, "BN": 32},
    ("head", 128, "tf32"): {"BP": 128, "BN": 32, "num_warps": 8},
    ("head", 128, "tf32x3"): {"BN": 32, "num_stages": 1},
    ("head_grad_v", 32, "bf16"): {"BP": 128, "BN": 32},
    ("head_grad_v", 32, "tf32"): {"BN": 32},
    ("head_grad_v", 128, "bf16"): {"BN": 32},
    ("head_grad_v", 128, "tf32"): {"BP": 128, "num_warps": 8},
    ("head_grad_v", 128, "bf16x6"): {"BN": 32, "num_stages": 1},
    ("head_grad_v", 128, "tf32x3"): {"BP": 128, "num_warps": 8, "num_stages": 1},
    ("head_grad_weights", 32, "bf16"): {"BP": 128},
    ("head_grad_weights", 32, "bf16x6"): {"programs": 264},
    ("head_grad_weights", 128, "bf16"): {"programs": 132},
    ("head_grad_weights", 128, "tf32"): {"BP": 128, "BN": 32, "programs": 66},
    ("head_grad_weights", 128, "tf32x3"): {"BP": 32, "BN": 32, "programs": 33, "num_stages": 1},
}
"""(kernel, channels of a tile, kind of product) -> what is another number there (docs/benchmarks.md)."""

KINDS = {"tf32": ("tf32",), "tf32x3": ("tf32x3", "tf32"), "bf16x6": ("bf16x6", "tf32x3", "tf32")}
"""How products of float32 may be made -> the kinds whose tiles serve, the first that has some.

Of full precision are six products of bfloat16 (bf16x6) and three of tf32 (tf32x3), which tiles of tf32 serve, too.
"""

SHRINKS = ("BX", "BP", "BG", "BO", "BI", "BN", "BJ", "BB")
"""Sides that may be halved, in this order of preference among equals."""


def tiles(kernel: str, channels: int, dtype: torch.dtype, products: str, **lengths: int) -> dict[str, Any]:
    """Return the launch arguments of a kernel for ``channels``; no side is longer than what it has to cover needs.

    ``products``: how those of float32 may be made, see KINDS; PRECISION in the result: how they are with these tiles.
    ``lengths``: side -> the length that it covers.
    """
    side, chosen, made = _side(channels), USUAL[kernel], "tf32" if products == "tf32" else "tf32x3"
    kinds = ("bf16",) if dtype.itemsize == 2 else KINDS[products]
    for kind in kinds:
        if (kernel, side, kind) in BETTER:
            chosen = chosen | BETTER[kernel, side, kind]
            made = kind if kind == "bf16x6" else made
            break
    return chosen | {"PRECISION": made} | {name: min(chosen[name], _side(length)) for name, length in lengths.items()}


def smaller(tile: dict[str, Any]) -> dict[str, Any] | None:
    """Return launch arguments that need less of a GPU's shared memory, or None where there are none.

    First fewer tiles at a time, then a longest side halved.
    """
    if tile["num_stages"] > 1:
        return tile | {"num_stages": tile["num_stages"] - 1}
    longest = max((name for name in SHRINKS if name in tile), key=lambda name: tile[name])
    return tile | {longest: tile[longest] // 2} if tile[longest] > NARROWEST else None


def cdiv(length: int, tile: int) -> int:
    """Return how many tiles cover a length."""
    return -(-length // tile)


def _side(length: int) -> int:
    """Return the shortest side of a tile that covers a length: a power of two."""
    return max(NARROWEST, 1 << (length - 1).bit_length())
