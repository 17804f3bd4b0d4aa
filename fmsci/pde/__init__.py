"""The equations: numpy only, no files, no ranks.

Read in this order: ``grid`` (conventions), ``operator`` (the one equation), ``sources``, ``system`` (what a system
is), then one file per system.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from fmsci.pde.catalogue import SYSTEMS
from fmsci.pde.grid import Real, sum_of_squares
from fmsci.pde.operator import NAMES, Coefficients, solve_field
from fmsci.pde.system import System

__all__ = ["NAMES", "SYSTEMS", "Coefficients", "System", "pair_error", "relative_error", "solve"]


def solve(system: str | System, source: ArrayLike, coefficients: ArrayLike | Mapping[str, ArrayLike]) -> Real:
    """Return the solution u of -div(K grad u) + v . grad u - w u = f in float64.

    Args:
        system: one of SYSTEMS, or its name.
        source: f, (ny, nx) or (B, ny, nx), the x axis last.
        coefficients: the system's columns, (K,) or (B, K) in the order of ``system.columns``, or one number or (B,)
        by name.

    Returns:
        u in the shape of ``source``. Wavenumbers whose symbol is exactly 0 (the mean, without w) are 0 in u.

    Raises:
        ValueError: where a name or a shape is wrong, or K is not positive definite.
        KeyError: where there is no such system.
    """
    chosen = SYSTEMS[system] if isinstance(system, str) else system
    field = np.asarray(source, dtype=np.float64)
    if field.ndim not in (2, 3):
        raise ValueError(f"source must be (ny, nx) or (B, ny, nx), got {field.shape}")
    batch = field.reshape(-1, *field.shape[-2:])
    if isinstance(coefficients, Mapping):
        if set(coefficients) != set(chosen.columns):
            raise ValueError(f"{chosen.name} takes {', '.join(chosen.columns)}, got {', '.join(coefficients)}")
        given = [np.broadcast_to(np.asarray(coefficients[name], np.float64), len(batch)) for name in chosen.columns]
        columns = np.stack(given, axis=1)
    else:
        columns = np.atleast_2d(np.asarray(coefficients, dtype=np.float64))
        if columns.shape[1:] != (len(chosen.columns),) or len(columns) not in (1, len(batch)):
            raise ValueError(f"coefficients must be ({len(batch)}, {len(chosen.columns)}), got {columns.shape}")
        columns = np.broadcast_to(columns, (len(batch), len(chosen.columns)))
    return solve_field(chosen.expand(columns), batch).reshape(field.shape)


def pair_error(system: str | System, source: ArrayLike, solution: ArrayLike, coefficients: ArrayLike) -> Real:
    """Return ||u - solve(f)|| / ||u|| (B,) of pairs (B, ny, nx) with columns (B, K): how well u belongs to f.

    This judges stored float32 pairs. Their residual would not: second derivatives amplify the rounding.
    """
    exact = solve(system, source, coefficients)
    given = np.asarray(solution, dtype=np.float64)
    return np.array([relative_error(u, v) for u, v in zip(given, exact, strict=True)])


def relative_error(given: Real, exact: Real) -> float:
    """Return ||given - exact|| / ||given|| of two fields; where the first is zero, ||exact||."""
    error: float = (sum_of_squares(given - exact) / (sum_of_squares(given) or 1.0)) ** 0.5
    return error
