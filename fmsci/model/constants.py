"""Constant matrices that are made once for a grid, and kept as long as somebody needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

KEPT = 32
"""Results of a function that are kept without being asked for; the one used longest ago goes first."""

_takers: list[list[Any]] = []


def constant(make: Callable[P, R]) -> Callable[P, R]:
    """Make a function's results constants: each is made once, and handed to whoever is :func:`keeping` them."""
    once = lru_cache(maxsize=KEPT)(make)

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> R:
        result: R = once(*args, **kwargs)  # type: ignore[arg-type]
        for taker in _takers:
            taker.append(result)
        return result

    made.cache_clear = once.cache_clear  # type: ignore[attr-defined]
    return made


@contextmanager
def keeping() -> Iterator[list[Any]]:
    """Collect the constants that any thread uses within the block: they live at least as long as the list.

    A recorded kernel knows their address and nothing else of them.
    """
    taken: list[Any] = []
    _takers.append(taken)
    try:
        yield taken
    finally:
        _takers[:] = [taker for taker in _takers if taker is not taken]  # two lists of the same constants are equal
