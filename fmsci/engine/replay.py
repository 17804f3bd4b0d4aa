"""On one GPU: the kernels of a forward and backward pass are recorded once, as CUDA graphs, and replayed.

Starting a kernel takes the host about 10 us, and a step of the model starts some hundred of them: up to 16M parameters
a GPU is faster than that. A replay starts them all at once. The numbers are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Replayed(nn.Module):
    """The module, with its training passes recorded for the shape that comes first; any other runs as it is.

    The gradients of a replay lie where the last one left them: before the next one the optimizer must have used them.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._recorded: tuple[torch.Size, Any] | None = None  # in a tuple: not a second name for the parameters

    def forward(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """Return what the module returns, (B, H, W) and (B, K) -> (B, H, W)."""
        if torch.is_grad_enabled():
            if self._recorded is None:
                self._recorded = source.shape, _record(self.module, source, coefficients)
            shape, recorded = self._recorded
            if source.shape == shape:
                u: Tensor = recorded(source, coefficients).clone()  # the next replay writes to the same place
                return u
        unrecorded: Tensor = self.module(source, coefficients)
        return unrecorded


class _Recording(nn.Module):
    """A module of its own to be recorded, as that changes its ``forward``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, source: Tensor, coefficients: Tensor) -> Tensor:
        u: Tensor = self.module(source, coefficients)
        return u


def _record(module: nn.Module, source: Tensor, coefficients: Tensor) -> Any:
    return torch.cuda.make_graphed_callables(_Recording(module), (source.clone(), coefficients.clone()))
