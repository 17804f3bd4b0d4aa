"""Make samples: from (stream, i) to a checked float32 pair. Knows neither ranks nor files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmsci.generate.draws import Stream, draw_uniforms
from fmsci.pde import System, pair_error
from fmsci.pde import sources as source_room
from fmsci.pde.grid import backward
from fmsci.pde.operator import build_operator, residual, solve_hat
from fmsci.pde.system import Draw

LARGEST_RESIDUAL = 1e-10
"""Above this relative residual in float64 a sample is wrong, whatever the reason, and the run stops."""

LARGEST_PAIR_ERROR = 1e-5
"""Above this ||u - solve(f)|| / ||u|| a stored float32 pair is wrong."""

POINTS_AT_ONCE = 1 << 17
"""Grid points that are worked on together: few enough to stay in a core's cache. The samples do not depend on it."""


class WrongSampleError(Exception):
    """A sample that does not solve its equation: a fault of the program or of the machine, never stored."""


@dataclass(frozen=True)
class Samples:
    """B finished samples: fields (B, 2, n, n) and rows (B, ...) of the other datasets by name."""

    fields: NDArray[np.float32]
    rows: dict[str, NDArray[Any]]


def make_samples(system: System, stream: Stream, grid: int, first: int, count: int) -> Iterator[Samples]:
    """Yield the samples first .. first + count - 1 of a stream, a few at a time.

    Raises WrongSampleError naming the sample whose residual is too large.
    """
    step = max(1, POINTS_AT_ONCE // grid**2)
    for begin in range(first, first + count, step):
        yield make_batch(system, stream, grid, np.arange(begin, min(begin + step, first + count)))


def make_batch(system: System, stream: Stream, grid: int, ids: NDArray[np.int64]) -> Samples:
    """Return the samples ``ids`` (B,)."""
    uniforms = draw_uniforms(stream, 0, ids)
    of_source, of_system = np.split(
        uniforms[:, : source_room.NUM_UNIFORMS + system.num_uniforms], [source_room.NUM_UNIFORMS], 1
    )
    source, source_hat = source_room.build_sources(source_room.build_amplitudes(of_source), grid, system.keep_mean)
    columns = system.draw(Draw(of_system, *stream.range, source_hat, grid)).astype(np.float32)
    # the equation is solved with the coefficients as they are stored, so that rounding them is no error of the pair
    coefficients = system.expand(columns.astype(np.float64))
    operator = build_operator(coefficients, grid, grid)
    solution = backward(solve_hat(operator, source_hat), grid)
    defect = residual(operator, solution, source_hat)
    fields = np.stack([source, solution], axis=1).astype(np.float32)
    pair = pair_error(system, fields[:, 0], fields[:, 1], columns)
    _refuse(stream, ids, defect, LARGEST_RESIDUAL, "the relative residual")
    _refuse(stream, ids, pair, LARGEST_PAIR_ERROR, "the error of the float32 pair")
    rows: dict[str, NDArray[Any]] = {
        "tensor": columns,
        "residual": defect,
        "pair_error": pair,
        "source_norm": _norm(source),
        "solution_norm": _norm(solution),
        "solution_max": np.abs(solution).max(axis=(1, 2)),
    }
    for name, measure in (system.measure or {}).items():
        rows[name] = measure(coefficients, source_hat, grid)
    return Samples(fields, rows)


def _norm(field: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ||.||_2 / n (B,), the L2 norm on the unit square; one dot product per sample."""
    flat = field.reshape(len(field), 1, -1)
    squares: NDArray[np.float64] = np.matmul(flat, flat.transpose(0, 2, 1))[:, 0, 0]
    return np.sqrt(squares / flat.shape[-1])


def _refuse(stream: Stream, ids: NDArray[np.int64], value: NDArray[np.float64], limit: float, what: str) -> None:
    bad = ~(value <= limit)  # so that NaN is refused too
    if bad.any():
        at = int(np.argmax(bad))
        raise WrongSampleError(
            f"sample {ids[at]} of {stream.split} does not solve {stream.system}: "
            f"{what} is {value[at]:.2g}, above {limit:g}"
        )
