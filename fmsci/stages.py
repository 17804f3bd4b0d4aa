"""The stages of a training step by name, for a profile. Where none is taken a name costs a look at one variable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch.profiler import record_function

P = ParamSpec("P")
R = TypeVar("R")

STAGES = ("data", "lift", "transform", "mix", "inverse", "pointwise", "head", "backward", "reduce", "optimizer")
"""In the order of a step. Those of a Fourier layer come again inside ``backward``, as its adjoint ones."""

_NOTHING = nullcontext()


class _Naming:
    on = False


@contextmanager
def naming() -> Iterator[None]:
    """Name the stages within the block, in every thread."""
    _Naming.on = True
    try:
        yield
    finally:
        _Naming.on = False


def stage(name: str) -> AbstractContextManager[object]:
    """Return the context of a stage. A compiler sees nothing of it."""
    if _Naming.on and not torch.compiler.is_compiling():
        return record_function(name)
    return _NOTHING


def named(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a stage, for ``@named("mix")``."""

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def staged(*args: P.args, **kwargs: P.kwargs) -> R:
            with stage(name):
                return function(*args, **kwargs)

        return staged

    return wrap
