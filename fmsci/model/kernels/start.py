"""Starting a kernel in tiles that fit the GPU at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from triton import OutOfResources

from fmsci.model.tiles import smaller, tiles

_fitting: dict[tuple[Any, ...], dict[str, int]] = {}
"""What was found to fit, by kernel, channels, number type, kind of product and lengths."""


def start(
    kernel: Any,
    name: str,
    grid: Callable[[dict[str, int]], tuple[int, ...]],
    given: tuple[Any, ...],
    dtype: torch.dtype,
    lengths: dict[str, int],
    **constants: Any,
) -> None:
    """Start ``kernel`` on ``given``; where its tiles need more shared memory than there is, in smaller ones.

    ``grid``: tile -> how many programs; ``lengths``: side of a tile -> the length that it covers; ``constants``: what
    the kernel is compiled for, C (channels) and PRECISION among them.
    """
    key = (name, dtype, *constants.values(), *lengths.values())
    tile: dict[str, int] | None = _fitting.get(key) or tiles(name, constants["C"], dtype, **lengths)
    while tile is not None:
        try:
            kernel[grid(tile)](
                *given, **constants, **{side: value for side, value in tile.items() if side != "programs"}
            )
        except OutOfResources:
            tile, last = smaller(tile), tile
            if tile is None:
                raise RuntimeError(f"the kernel {name} does not fit this GPU, even with {last}") from None
        else:
            _fitting[key] = tile
            return
