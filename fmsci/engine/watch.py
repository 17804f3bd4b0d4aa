"""What a step can tell beside its result: the gradient's norm, and how long a rank waited for the others.

Nothing here waits for the device: on a GPU both are marks and numbers on it, read when an entry is due.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fmsci.stages import stage

Mark = Any
"""A moment: ``time.perf_counter``, or an event in the stream of a GPU."""


class Watch:
    """Belongs to an engine. ``wanted`` says whether the step that comes is to tell the norm of its gradient."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.wanted: Callable[[], bool] = lambda: False
        self.grad_norm: Tensor | None = None
        """L2 norm of the last such step's gradient before clipping, over the GLOBAL batch: the same on every rank."""
        self._waits: list[tuple[Mark, Mark]] = []
        self._ready: Mark = None

    def mark(self) -> Mark:
        """Return this moment."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def waited(self, begun: Mark) -> None:
        """Count the time from ``begun`` to now as waiting for other ranks."""
        self._waits.append((begun, self.mark()))

    def ready(self) -> None:
        """Note that a part of the gradient is there to be reduced; the last one of a backward pass counts."""
        self._ready = self.mark()

    def reduced(self) -> None:
        """Count what came after the last ``ready`` as waiting: nothing was left to compute."""
        if self._ready is not None:
            self.waited(self._ready)
            self._ready = None

    def take_norm(self) -> float | None:
        """Return the norm and forget it; None where no step has told it. Waits for the device."""
        norm, self.grad_norm = self.grad_norm, None
        return None if norm is None else float(norm)

    def take_wait_s(self) -> float:
        """Return the seconds of waiting since the last look. What was marked must be past: read the loss first."""
        waits, self._waits = self._waits, []
        if self.device.type == "cuda":
            return float(sum(begun.elapsed_time(ended) for begun, ended in waits)) / 1000.0
        return float(sum(ended - begun for begun, ended in waits))


COLLECTIVES = (
    "all_reduce",
    "all_reduce_coalesced",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_coalesced",
    "broadcast",
)


def watch_backend(backend: Any, watch: Watch) -> None:
    """Time the collectives of DeepSpeed's backend object, those under way while others compute counted in full.

    In a profile they are the stage ``reduce``, gathers of weights with them: all that the ranks exchange.

    A second call replaces the first: a process may build several engines.
    """

    def timed(name: str) -> Callable[..., Any]:
        plain = getattr(type(backend), name).__get__(backend)  # the class's own: never what was put here before

        def collective(*args: Any, **kwargs: Any) -> Any:
            begun = watch.mark()
            with stage("reduce"):
                work = plain(*args, **kwargs)
            watch.waited(begun)
            return _TimedWork(work, watch) if hasattr(work, "wait") else work

        return collective

    for name in COLLECTIVES:
        if hasattr(type(backend), name):
            setattr(backend, name, timed(name))


class _TimedWork:
    """The handle of a collective that is under way."""

    def __init__(self, work: Any, watch: Watch) -> None:
        self._work, self._watch = work, watch

    def wait(self, *args: Any) -> Any:
        begun = self._watch.mark()
        done = self._work.wait(*args)
        self._watch.waited(begun)
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
