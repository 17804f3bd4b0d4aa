"""Starting a kernel in tiles that fit the GPU at hand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from triton import OutOfResources
from triton.backends.nvidia.compiler import CUDAOptions
from triton.runtime import JITFunction

from fmsci.model.kernels.field import analyse
from fmsci.model.tiles import smaller, tiles

_fitting: dict[tuple[Any, ...], dict[str, Any]] = {}
"""What was found to fit, by kernel, device, number type, channels, kind of product and lengths."""


def start(
    kernel: Any,
    grid: Callable[[dict[str, Any]], tuple[int, ...]],
    given: tuple[Any, ...],
    dtype: torch.dtype,
    lengths: dict[str, int],
    called: str | None = None,
    **constants: Any,
) -> None:
    """Start ``kernel`` on ``given``; where its tiles need more shared memory than there is, in smaller ones.

    ``grid``: tile -> how many programs; ``lengths``: side of a tile -> the length that it covers; ``called``: the name
    of its tiles, where it has others than usual; ``constants``: what the kernel is compiled for, C (channels) and
    PRECISION, at best, among them. It runs where the tensors of ``given`` are.
    """
    name: str = called or kernel.__name__
    device = next(one.device for one in given if isinstance(one, Tensor))
    key = (name, device, dtype, *constants.values(), *lengths.values())
    tile: dict[str, Any] | None = _fitting.get(key) or tiles(
        name, constants["C"], dtype, constants["PRECISION"], **lengths
    )
    with _current(device):
        while tile is not None:
            sides = {side: value for side, value in tile.items() if side != "programs"}
            try:
                kernel[grid(tile)](*given, **(constants | sides))
            except OutOfResources:
                tile, last = smaller(tile), tile
                if tile is None:
                    raise RuntimeError(f"the kernel {name} does not fit this GPU, even with {last}") from None
            else:
                _fitting[key] = tile
                return


@lru_cache(maxsize=1)
def makes_six() -> bool:
    """Tell whether Triton makes a product of six in bfloat16: 3.6 is the first that does, its interpreter does not."""
    return "bf16x6" in CUDAOptions.allowed_dot_input_precisions and isinstance(analyse, JITFunction)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a device is the current one: Triton starts kernels there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
