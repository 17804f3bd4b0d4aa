"""The memory of large gradients, left by one training step to the next.

The C library gives a block of such a size back to the system when it is freed (``keep_freed_memory``), and each page
that comes anew costs a microsecond: a quarter of a step of 256M. What is left is memory that the next step asks for.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def gradient_room(parameter: Tensor) -> Tensor:
    """Return room for a gradient of a parameter: what :func:`leave_gradients` left of it, or new memory."""
    left: Tensor | None = getattr(parameter, "gradient_left", None)
    # That it asks here shows that its gradient is not made elsewhere, from one of another number type.
    parameter.gradient_left = None  # type: ignore[attr-defined]
    if left is not None and left.is_contiguous() and _kind(left) == _kind(parameter):
        return left
    return torch.empty_like(parameter, memory_format=torch.contiguous_format)


def leave_gradients(parameters: Iterable[Tensor], large: int) -> None:
    """Take gradients of ``large`` bytes and more from parameters on a CPU; the next backward pass has their memory.

    ``parameters``: in the order in which the model uses them. The first one's is not left: it comes last, when all
    fields are gone, so that the step takes no more memory than it would.
    """
    asking = [one for one in parameters if hasattr(one, "gradient_left") and one.grad is not None]
    for parameter in [one for one in asking if one.device.type == "cpu" and one.nbytes >= large][1:]:
        parameter.gradient_left, parameter.grad = parameter.grad, None


def _kind(values: Tensor) -> tuple[object, ...]:
    return values.shape, values.dtype, values.device
