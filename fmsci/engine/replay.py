"""On one GPU: the kernels of a forward and backward pass are recorded once, as CUDA graphs, and replayed.

Starting a kernel takes the host about 10 us, and a step of the model starts some hundred of them: up to 16M parameters
a GPU is faster than that. A replay starts them all at once. The numbers are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WARM_UPS = 3


class Replayed(nn.Module):
    """The module, with its training passes recorded for the shape that comes first; any other runs as it is.

    The gradients of a replay lie where the last one left them: before the next one the optimizer must have used them.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._recording: Recording | None = None

    def forward(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """Return what the module returns, (B, H, W) and (B, K) -> (B, H, W)."""
        if torch.is_grad_enabled():
            if self._recording is None:
                self._recording = Recording(self.module, source, coefficients)
            if source.shape == self._recording.source.shape:
                return self._recording.replay(source, coefficients)
        u: Tensor = self.module(source, coefficients)
        return u


class Recording:
    """The graphs of one forward and one backward pass, and the places that they read and write."""

    def __init__(self, module: nn.Module, source: Tensor, coefficients: Tensor) -> None:
        self.source, self.coefficients = source.clone(), coefficients.clone()
        self.parameters = [one for one in module.parameters() if one.requires_grad]
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # What is done at a first call only (libraries, kernels that compile) must be over before recording.
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self._warm_up(module)
        torch.cuda.current_stream().wait_stream(beside)
        # Threads that bring the next batch may use the GPU meanwhile: only this one's calls are looked at.
        with torch.cuda.graph(self.forward, capture_error_mode="thread_local"):
            u = module(self.source, self.coefficients)
        self.u, self.grad = u.detach(), torch.empty_like(u)
        with torch.cuda.graph(self.backward, pool=self.forward.pool(), capture_error_mode="thread_local"):
            self.grads = torch.autograd.grad(u, self.parameters, self.grad)

    def _warm_up(self, module: nn.Module) -> None:
        """Go through both passes; nothing of them is left, or the recording would be tied to their stream."""
        u = module(self.source, self.coefficients)
        torch.autograd.grad(u, self.parameters, torch.zeros_like(u))

    def replay(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """Return the module's result."""
        u: Tensor = _Replay.apply(self, source, coefficients, *self.parameters)  # type: ignore[no-untyped-call]
        return u


class _Replay(torch.autograd.Function):
    """A replay as one step of differentiation."""

    @staticmethod
    def forward(ctx: Any, recording: Recording, source: Tensor, coefficients: Tensor, *parameters: Tensor) -> Tensor:
        ctx.recording = recording
        recording.source.copy_(source)
        recording.coefficients.copy_(coefficients)
        recording.forward.replay()
        u: Tensor = recording.u.clone()  # the next replay writes to the same place
        return u

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        recording = ctx.recording
        recording.grad.copy_(grad)
        recording.backward.replay()
        return None, None, None, *(one.detach() for one in recording.grads)
