"""The equations: numpy only, no files, no ranks.

Read in this order: ``grid`` (conventions), ``operator`` (the one equation), ``sources``, ``system`` (what a system
is), then one file per system.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fmsci.errors import ArgumentError
from fmsci.pde.arguments import as_real, find_system, like, stack_coefficients
from fmsci.pde.catalogue import REVISION, SYSTEMS
from fmsci.pde.grid import Real, sum_of_squares
from fmsci.pde.operator import NAMES, Coefficients, solve_field
from fmsci.pde.system import System

__all__ = ["NAMES", "REVISION", "SYSTEMS", "Coefficients", "System", "pair_error", "relative_error", "solve"]


def solve(
    system: str | System, source: Any, coefficients: ArrayLike | Mapping[str, Any] | None = None, /, **named: Any
) -> Any:
    """Return the solution u of -div(K grad u) + v . grad u - w u = f in float64.

    The exact counterpart of ``fmsci.load(PATH).solve``: ``solve("poisson", f, k11=0.02, k22=0.03, k12=0.0)``.

    Args:
        system: one of SYSTEMS, or its name.
        source: f, (ny, nx) or (B, ny, nx), the x axis last; a numpy array or a torch tensor.
        coefficients: instead of names, the system's columns (K,) or (B, K) in the order of ``system.columns``, or a
            mapping.
        named: each coefficient of the system, a number or (B,); with (B,) a single source serves for all.

    Returns:
        u, (ny, nx) or (B, ny, nx), an array or a tensor as ``source`` is. Wavenumbers whose symbol is exactly 0 (the
        mean, without w) are 0 in u.

    Raises:
        ArgumentError: a ValueError, where a name, a shape or a number is wrong, or K is not positive definite.
    """
    chosen = find_system(system)
    field = as_real(source, "source")
    if field.ndim not in (2, 3) or 0 in field.shape[-2:]:
        raise ArgumentError(f"source must be (ny, nx) or (B, ny, nx), got {field.shape}")
    count = len(field) if field.ndim == 3 else None
    columns, one = stack_coefficients(chosen.name, chosen.columns, coefficients, named, count)
    batch = np.broadcast_to(field, (len(columns), *field.shape[-2:]))
    solution = solve_field(chosen.expand(columns), batch)
    return like(source, solution[0] if field.ndim == 2 and one else solution)


def pair_error(system: str | System, source: ArrayLike, solution: ArrayLike, coefficients: ArrayLike) -> Real:
    """Return ||u - solve(f)|| / ||u|| (B,) of pairs (B, ny, nx) with columns (B, K): how well u belongs to f.

    This judges stored float32 pairs. Their residual would not: second derivatives amplify the rounding.
    """
    columns, given = np.asarray(coefficients, dtype=np.float64), np.asarray(solution, dtype=np.float64)
    exact = solve_field(find_system(system).expand(columns), np.asarray(source, dtype=np.float64))
    return np.array([relative_error(u, v) for u, v in zip(given, exact, strict=True)])


def relative_error(given: Real, exact: Real) -> float:
    """Return ||given - exact|| / ||given|| of two fields; where the first is zero, ||exact||."""
    error: float = (sum_of_squares(given - exact) / (sum_of_squares(given) or 1.0)) ** 0.5
    return error
