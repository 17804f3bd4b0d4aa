"""What a user gives to a solver, exact or trained: sources and named coefficients, as numpy or torch has them.

A torch tensor is known by what it can do, so that this room needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmsci.errors import ArgumentError, nearest
from fmsci.pde.catalogue import SYSTEMS
from fmsci.pde.grid import Real
from fmsci.pde.system import System


def find_system(system: str | System) -> System:
    """Return the system of that name; ArgumentError where there is none."""
    if isinstance(system, System):
        return system
    if system not in SYSTEMS:
        raise ArgumentError(
            f"there is no system '{system}'{nearest(str(system), SYSTEMS)}; choose {', '.join(SYSTEMS)}"
        )
    return SYSTEMS[system]


def as_real(value: Any, name: str) -> Real:
    """Return numbers of any kind as a float64 array; ArgumentError where they are not real, or not finite."""
    if hasattr(value, "detach"):  # a torch tensor, wherever it is
        value = value.detach().cpu()
        value = value.double().numpy() if value.is_floating_point() else value.numpy()
    try:
        array = np.asarray(value)
    except ValueError:  # a list of lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise ArgumentError(f"{name} should be real numbers, not {type(value).__name__} of {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ArgumentError(f"{name} holds a value that is not finite")
    return array


def like(source: Any, solution: Real) -> Any:
    """Return a float64 array as what ``source`` is: an array, or a tensor on the same device."""
    return source.detach().double().new_tensor(solution) if hasattr(source, "detach") else solution


def is_single(given: Mapping[str, Any]) -> bool:
    """Tell whether every coefficient is one number."""
    return all(np.ndim(value) == 0 for value in given.values())


def stack_coefficients(whose: str, names: Sequence[str], given: Mapping[str, Any], count: int | None) -> Real:
    """Return named coefficients, each a number or (B,), as columns (B, K) in the order of ``names``.

    ``count`` is the number of sources, None for a single one, which then serves for as many values as there are.
    Raises ArgumentError with the list of names where one is missing or unknown, and where lengths do not fit.
    """
    problems = [f"{name} is missing" for name in names if name not in given]
    problems += [f"'{name}' is none of them{nearest(name, names)}" for name in given if name not in names]
    if problems:
        raise ArgumentError(f"{whose} takes {', '.join(names)}: {', '.join(problems)}")
    columns = {name: as_real(given[name], name) for name in names}
    length = count
    for name, values in columns.items():
        if values.ndim > 1:
            raise ArgumentError(f"{name} is {values.shape} but should be a number, or one for each source")
        if values.ndim == 1 and length is None:
            length = len(values)
        if values.ndim == 1 and len(values) != length:
            what = f"there are {count} sources" if count is not None else f"another coefficient has {length}"
            raise ArgumentError(f"{name} has {len(values)} values but {what}; give one number, or one for each")
    size = 1 if length is None else length
    return np.stack([np.broadcast_to(values, size) for values in columns.values()], axis=1)
