"""In which number type each stage of the model computes.

- float32: everything, float64 in, float64 throughout. tf32 is a switch of the matrix products (engine.precision);
  without it they are of full precision on a GPU, too.
- bfloat16 (under autocast): fields between the layers, transforms, mixing, pointwise products and gelu are bfloat16,
  products add up in float32 inside; parameters, their gradients as the optimizer sees them, the last product of the
  head and the loss are float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def compute_dtype(values: Tensor) -> torch.dtype:
    """Return the number type of a stage that takes ``values``: autocast's where it is on, else their own."""
    kind = values.device.type
    on = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else values.dtype


def as_it_is(values: Tensor) -> AbstractContextManager[object]:
    """Return the context in which autocast changes no number type: the stage has chosen its own."""
    return nullcontext() if values.device.type == "meta" else torch.autocast(values.device.type, enabled=False)


def precision() -> str:
    """Return how a GPU's kernels make products of float32 at best, see :data:`fmsci.model.tiles.KINDS`."""
    if torch.get_float32_matmul_precision() != "highest":
        return "tf32"
    from fmsci.model.kernels.start import makes_six

    return "bf16x6" if makes_six() else "tf32x3"
