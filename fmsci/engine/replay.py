"""On a GPU: all kernels of a step but the optimizer's are recorded once, as a CUDA graph, and replayed.

Starting a kernel takes the host about 10 us, and a step of the model starts more than a hundred of them: up to 16M
parameters a GPU is faster than that. A replay starts them all at once. The numbers are the same.

A recording keeps the memory of its passes, activations and gradients, as long as it lives: what runs without one
between two replays finds that much less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fmsci.engine.api import blamed, gradient_norm
from fmsci.model.constants import keeping
from fmsci.terminal import warn

WARM_UPS = 3
SHAPES = 2
"""How many are recorded: a full batch, and the short one at the end of an epoch."""

Loss = Callable[..., Tensor]
"""(module, inputs) -> (loss, error)"""


class Replayed:
    """The gradient of a module's loss, with its passes recorded for the first shapes that come.

    Any other shape goes through them as it is. So does everything that cannot be recorded, for lack of memory or
    because a pass waits for the GPU; a sentence says so once. The gradients of a replay lie where the last one of its
    shape left them: before the next one the optimizer must have used them.
    """

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        self.module, self.loss = module, loss
        self.parameters = {name: one for name, one in module.named_parameters() if one.requires_grad}
        self._recordings: dict[tuple[torch.Size, ...], Recording] = {}
        self._more = True  # may be recorded

    def gradient(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (loss, error), the loss NaN where its gradient is not finite, and the norm of the gradient.

        The gradient itself is then in ``grad`` of the parameters, where none may have been before.
        """
        recording = self._recording(inputs)
        if recording is not None:
            numbers, grads = recording.replay(inputs)
        else:
            numbers, grads = passes(self.module, self.loss, self.parameters, inputs)
        for parameter, grad in zip(self.parameters.values(), grads, strict=True):
            parameter.grad = grad
        return numbers[:2], numbers[2]

    def _recording(self, inputs: tuple[Tensor, ...]) -> Recording | None:
        shapes, refused = tuple(one.shape for one in inputs), None
        if shapes not in self._recordings and self._more and len(self._recordings) < SHAPES:
            try:
                self._recordings[shapes] = Recording(self.module, self.loss, self.parameters, inputs)
            except RuntimeError as error:  # those of CUDA and of its memory are such
                refused = str(error).partition("\n")[0]
        if refused is not None:  # what the failed one held is free by now
            self._more = False
            warn(
                f"a step of {len(inputs[0])} samples cannot be recorded ({refused}); training goes on without, a small "
                "model more slowly; engine.replay=false leaves the attempt out"
            )
        return self._recordings.get(shapes)


class Recording:
    """The graph of a forward and a backward pass, and the places that it reads and writes."""

    def __init__(
        self, module: nn.Module, loss: Loss, parameters: Mapping[str, Tensor], inputs: tuple[Tensor, ...]
    ) -> None:
        self.inputs = [one.clone() for one in inputs]
        self.graph = torch.cuda.CUDAGraph()
        # What is done at a first call only (libraries, kernels that compile) must be over before recording.
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                passes(module, loss, parameters, self.inputs)
        torch.cuda.current_stream().wait_stream(beside)
        pool = torch.cuda.graph_pool_handle()
        # Threads that bring the next batch may use the GPU meanwhile: only this one's calls are looked at.
        recording = torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local")
        with keeping() as self.constants, whole_again(pool), recording:
            self.numbers, self.grads = passes(module, loss, parameters, self.inputs)

    def replay(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """Return what :func:`passes` returns."""
        for place, given in zip(self.inputs, inputs, strict=True):
            place.copy_(given)
        self.graph.replay()
        return self.numbers.clone(), self.grads  # the next replay writes to the same places


def passes(
    module: nn.Module, loss: Loss, parameters: Mapping[str, Tensor], inputs: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return (loss, error, norm of the gradient) and the gradients in the parameters' layout: an optimizer needs it.

    They are those of tensors that share the parameters' memory: what autograd keeps of a parameter belongs to the
    stream in which it was used first, which is not the one of a recording.
    """
    shared = {name: one.detach().requires_grad_() for name, one in parameters.items()}
    numbers = loss(partial(_called, module, shared), *inputs)
    found = torch.autograd.grad(numbers[0], list(shared.values()))
    grads = [
        grad if grad.stride() == one.stride() else torch.empty_like(one).copy_(grad)
        for one, grad in zip(parameters.values(), found, strict=True)
    ]
    norm = gradient_norm(grads)
    return torch.cat((blamed(numbers.detach(), torch.isfinite(norm)), norm[None])), grads


def _called(module: nn.Module, parameters: dict[str, Tensor], *inputs: Tensor) -> Tensor:
    u: Tensor = torch.func.functional_call(module, parameters, inputs)
    return u


@contextmanager
def whole_again(pool: Any) -> Iterator[None]:
    """Where recording within the block fails, go on in the stream of before, with nothing that records any more.

    torch leaves that stream; before 2.12 its allocator went on waiting for the end of the recording, and freed nothing
    that other streams had used; and its generator would draw no more random numbers.
    """
    stream = torch.cuda.current_stream()
    try:
        yield
    except RuntimeError:
        torch.cuda.set_stream(stream)
        with suppress(RuntimeError):  # it waits no more
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(generator.clone_state())
        raise
