"""The memory of large gradients, left by one training step to the next.

The C library gives a block of such a size back to the system when it is freed (``keep_freed_memory``), and each page
that comes anew costs a microsecond: an eighth of a step of 256M.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

LEFT: MutableMapping[Tensor, Tensor | None] = WeakTensorKeyDictionary()
"""Parameter -> the memory that is left for its gradient; None where its gradient was written to what was asked here.

Only a parameter itself can be found again. Where a layer computes with another tensor, a copy in bfloat16 or what
recomputation gives it, nothing is left.
"""


def gradient_room(parameter: Tensor) -> Tensor:
    """Return room for a gradient of a parameter: what :func:`leave_gradients` left of it, or new memory."""
    left = LEFT.get(parameter)
    LEFT[parameter] = None
    if left is not None and left.is_contiguous() and _kind(left) == _kind(parameter):
        return left
    return torch.empty_like(parameter, memory_format=torch.contiguous_format)


def that_leave(parameters: Iterable[Tensor], large: int) -> list[Tensor]:
    """Return the parameters on a CPU whose gradients, of ``large`` bytes and more, are to leave their memory.

    ``parameters``: in the order in which the model uses them. The first one's is to leave none: it comes last, when all
    fields are gone. A step takes no more memory than it would where its fields are no larger than that, and as much
    more as they are where they are larger.
    """
    return [one for one in parameters if one.device.type == "cpu" and one.nbytes >= large][1:]


def leave_gradients(parameters: Iterable[Tensor]) -> None:
    """Take their gradients from parameters; the next backward pass writes to the same memory.

    So who wants to keep such a gradient copies it before.
    """
    for parameter in parameters:
        if parameter in LEFT and LEFT.pop(parameter) is None and parameter.grad is not None:
            LEFT[parameter], parameter.grad = parameter.grad, None


def _kind(values: Tensor) -> tuple[object, ...]:
    return values.shape, values.dtype, values.device
