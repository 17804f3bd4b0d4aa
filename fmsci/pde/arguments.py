"""What a user gives to a solver, exact or trained: sources and named coefficients, as numpy or torch has them.

A torch tensor is known by what it can do, so that this room needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fmsci.errors import ArgumentError, nearest
from fmsci.pde.catalogue import SYSTEMS
from fmsci.pde.grid import Real
from fmsci.pde.operator import NAMES, Coefficients, check_elliptic
from fmsci.pde.system import System


def find_system(system: str | System) -> System:
    """Return the system of that name; ArgumentError where there is none."""
    if isinstance(system, System):
        return system
    if not isinstance(system, str) or system not in SYSTEMS:
        raise ArgumentError(
            f"there is no system '{system}'{nearest(str(system), SYSTEMS)}; choose {', '.join(SYSTEMS)}"
        )
    return SYSTEMS[system]


def as_real(value: Any, name: str) -> Real:
    """Return numbers of any kind as a float64 array; ArgumentError where they are not real, or not finite."""
    try:
        if hasattr(value, "detach"):  # a torch tensor, wherever it is
            value = value.detach().cpu()
            value = value.double().numpy() if value.is_floating_point() else value.numpy()
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # lists of different lengths; a tensor that is sparse, or has no data
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


def stack_coefficients(
    whose: str, names: Sequence[str], array: Any, named: Mapping[str, Any], count: int | None
) -> tuple[Real, bool]:
    """Return coefficients as columns (B, K) in the order of ``names``, and whether they were one set of numbers.

    They come as ``array`` (K,) or (B, K), in place of which there may be a mapping, or else by name. ``count`` is the
    number of sources, None for a single one.
    Raises ArgumentError where a name is missing or unknown, where lengths do not fit, and for coefficients given twice.
    """
    if isinstance(array, Mapping):
        array, named = None, {**array, **named}
    if array is None:
        return _stack_named(whose, names, named, count), all(np.ndim(value) == 0 for value in named.values())
    if named:
        raise ArgumentError(f"coefficients are given twice: as an array, and {', '.join(named)} by name; choose one")
    columns = np.atleast_2d(as_real(array, "coefficients"))
    size = 1 if count is None else count
    if columns.shape[1:] != (len(names),) or len(columns) not in (1, size):
        raise ArgumentError(
            f"coefficients must be ({size}, {len(names)}), got {columns.shape}; or name them: {', '.join(names)}"
        )
    return np.array(np.broadcast_to(columns, (size, len(names)))), True


def check_equation(names: Sequence[str], columns: Real, systems: Iterable[str] = SYSTEMS) -> None:
    """Raise ArgumentError where columns (B, K) so named make no elliptic equation, as the exact solver does.

    ``systems``: those that they may be of. Of columns that none of these has nothing is known.
    """
    if tuple(names) == NAMES:
        check_elliptic(Coefficients(*columns.T))
        return
    fitting = [SYSTEMS[name] for name in systems if name in SYSTEMS and SYSTEMS[name].columns == tuple(names)]
    for system in fitting[:1]:
        check_elliptic(system.expand(columns))


def _stack_named(whose: str, names: Sequence[str], given: Mapping[str, Any], count: int | None) -> Real:
    """Return named coefficients, each a number or (B,), as columns; with (B,) a single source serves for all."""
    problems = [f"{name} is missing" for name in names if name not in given]
    problems += [f"'{name}' is none of them{nearest(str(name), names)}" for name in given if name not in names]
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
