"""On one GPU: the kernels of a forward and backward pass are recorded once, as CUDA graphs, and replayed.

Starting a kernel takes the host about 10 us, and a step of the model starts some hundred of them: up to 16M parameters
a GPU is faster than that. A replay starts them all at once. The numbers are the same.

A recording keeps the memory of its passes, activations and gradients, as long as it lives: what runs without one
between two replays finds that much less.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from fmsci.model.constants import keeping
from fmsci.terminal import warn

WARM_UPS = 3
SHAPES = 2
"""How many are recorded: a full batch, and the short one at the end of an epoch."""


class Replayed(nn.Module):
    """The module, with its training passes recorded for the first shapes that come; any other runs as it is.

    So does everything that cannot be recorded, for lack of memory or because a pass waits for the GPU; a sentence
    says so once. The gradients of a replay lie where the last one of its shape left them: before the next one the
    optimizer must have used them.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._recordings: dict[tuple[torch.Size, torch.Size], Recording] = {}
        self._more = True  # may be recorded

    def forward(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """Return what the module returns, (B, H, W) and (B, K) -> (B, H, W)."""
        recording = self._recording(source, coefficients) if torch.is_grad_enabled() else None
        if recording is not None:
            return recording.replay(source, coefficients)
        u: Tensor = self.module(source, coefficients)
        return u

    def _recording(self, source: Tensor, coefficients: Tensor) -> Recording | None:
        shapes, refused = (source.shape, coefficients.shape), None
        if shapes not in self._recordings and self._more and len(self._recordings) < SHAPES:
            try:
                self._recordings[shapes] = Recording(self.module, source, coefficients)
            except RuntimeError as error:  # those of CUDA and of its memory are such
                refused = str(error).partition("\n")[0]
        if refused is not None:  # what the failed one held is free by now
            self._more = False
            warn(
                f"a step of {len(source)} samples cannot be recorded ({refused}); training goes on without, a small "
                "model more slowly; engine.replay=false leaves the attempt out"
            )
        return self._recordings.get(shapes)


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
        pool = torch.cuda.graph_pool_handle()
        # Threads that bring the next batch may use the GPU meanwhile: only this one's calls are looked at.
        how: dict[str, Any] = {"pool": pool, "capture_error_mode": "thread_local"}
        with keeping() as self.constants, whole_again(pool):
            with torch.cuda.graph(self.forward, **how):
                u = module(self.source, self.coefficients)
            self.u, self.grad = u.detach(), torch.empty_like(u)
            with torch.cuda.graph(self.backward, **how):
                self.grads = torch.autograd.grad(u, self.parameters, self.grad)

    def _warm_up(self, module: nn.Module) -> None:
        """Go through both passes; nothing of them is left, or the recording would be tied to their stream."""
        u = module(self.source, self.coefficients)
        torch.autograd.grad(u, self.parameters, torch.zeros_like(u))

    def replay(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """Return the module's result."""
        u: Tensor = _Replay.apply(self, source, coefficients, *self.parameters)  # type: ignore[no-untyped-call]
        return u


@contextmanager
def whole_again(pool: Any) -> Iterator[None]:
    """Where recording within the block fails, go on in the stream of before, with an allocator that records no more.

    torch leaves that stream, and before 2.12 its allocator went on waiting for the end of the recording: it freed
    nothing that other streams had used.
    """
    stream = torch.cuda.current_stream()
    try:
        yield
    except RuntimeError:
        torch.cuda.set_stream(stream)
        with suppress(RuntimeError):  # it waits no more
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        raise


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
