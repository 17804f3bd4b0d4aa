"""Make samples: from (stream, i) to a checked float32 pair. Knows neither ranks nor files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmsci.errors import UserError
from fmsci.generate.draws import Stream, draw_uniforms
from fmsci.pde import System, pair_error
from fmsci.pde.grid import Real, Spectrum, backward, squared_norm, sum_of_squares
from fmsci.pde.operator import Operator, build_operator, residual, solve_hat
from fmsci.pde.sources import NUM_UNIFORMS, build_amplitudes, build_sources
from fmsci.pde.system import Draw

LARGEST_RESIDUAL = 1e-10
"""Above this relative residual in float64 a sample is wrong, whatever the reason, and the run stops."""

LARGEST_PAIR_ERROR = 1e-5
"""Above this ||u - solve(f)|| / ||u|| a stored float32 pair is wrong."""

POINTS_AT_ONCE = 1 << 17
"""Grid points that are worked on together: few enough to stay in a core's cache. The samples do not depend on it."""

POINTS_IN_A_BATCH = 1 << 20
"""Grid points that are finished together: rejected draws are collected over so many, to be made again together."""

SOURCES_FOR_ONE_W = 1000
"""With redraw = source, so many sources are tried before the coefficients are drawn anew too."""

MOST_ATTEMPTS = 100_000
"""After so many rejected draws of one sample its range is hopeless."""


class WrongSampleError(Exception):
    """A sample that does not solve its equation: a fault of the program or of the machine, never stored."""


@dataclass(frozen=True)
class Samples:
    """B finished samples."""

    fields: NDArray[np.float32]
    """(B, 2, n, n): source, solution."""
    rows: dict[str, NDArray[Any]]
    """(B, ...) of the other datasets, by name."""
    tallied: list[NDArray[np.float32]]
    """The tallied coefficient of every draw, rejected ones included; empty where nothing is ever rejected."""


@dataclass(frozen=True)
class _Draws:
    """B draws in float64, on their way to become samples."""

    places: NDArray[np.int64]
    """Where each would stand in its batch."""
    columns: NDArray[np.float32]
    source: Real
    source_hat: Spectrum
    operator: Operator
    solution_hat: Spectrum

    def take(self, rows: NDArray[np.int64]) -> _Draws:
        """Return some of the draws; all of them cost nothing."""
        if len(rows) == len(self.places):
            return self
        return _Draws(
            self.places[rows],
            self.columns[rows],
            self.source[rows],
            self.source_hat[rows],
            self.operator.take(rows),
            self.solution_hat[rows],
        )


class SampleMaker:
    """Makes the samples of one stream on one grid."""

    def __init__(self, system: System, stream: Stream, grid: int, options: Mapping[str, str] | None = None) -> None:
        """Take ``options`` for the system's choices; its defaults where they are silent."""
        self.system, self.stream, self.grid = system, stream, grid
        self.options = {name: choices[0] for name, choices in system.options.items()} | dict(options or {})

    def make(self, first: int, count: int) -> Iterator[Samples]:
        """Yield the samples first .. first + count - 1, a batch at a time.

        Raises WrongSampleError naming the sample whose residual is too large.
        """
        step = max(1, POINTS_IN_A_BATCH // self.grid**2)
        for begin in range(first, first + count, step):
            yield self.make_batch(np.arange(begin, min(begin + step, first + count)))

    def make_batch(self, ids: NDArray[np.int64]) -> Samples:
        """Return the samples ``ids`` (B,): draw, and draw the rejected ones again, until all are there."""
        batch = Samples(np.empty((len(ids), 2, self.grid, self.grid), np.float32), {}, [])
        step = max(1, POINTS_AT_ONCE // self.grid**2)
        pending = np.arange(len(ids))
        for attempt in range(MOST_ATTEMPTS):
            accepted = [
                self._try(batch, ids, pending[begin : begin + step], attempt) for begin in range(0, len(pending), step)
            ]
            pending = np.setdiff1d(pending, np.concatenate(accepted), assume_unique=True)
            if pending.size == 0:
                return batch
        raise UserError(
            f"{self.system.name} {list(self.stream.range)}: sample {ids[pending[0]]} of {self.stream.split} still has "
            f"max|u| > {self.system.max_solution:g} after {MOST_ATTEMPTS:,} draws; the range is too near a resonance"
        )

    def _try(
        self, batch: Samples, ids: NDArray[np.int64], places: NDArray[np.int64], attempt: int
    ) -> NDArray[np.int64]:
        """Draw the samples at these places of the batch, put the accepted ones there, and return their places."""
        draws = self._draw(ids, places, attempt)
        if self.system.tally is not None:
            batch.tallied.append(draws.columns[:, self.system.tallied_column])
        limit = np.inf if self.system.max_solution is None else self.system.max_solution
        if np.isfinite(limit):  # max|u| is at least the root mean square, which needs no transform
            mean_square = squared_norm(draws.solution_hat, self.grid) / float(self.grid) ** 4
            draws = draws.take(np.flatnonzero(mean_square <= 1.001 * limit**2))
        solution = backward(draws.solution_hat, self.grid)
        largest = np.abs(solution).max(axis=(1, 2), initial=0)
        good = np.flatnonzero(largest <= limit)
        draws = draws.take(good)
        if len(good):
            self._finish(batch, ids, draws, solution[good], largest[good])
        return draws.places

    def _draw(self, ids: NDArray[np.int64], places: NDArray[np.int64], attempt: int) -> _Draws:
        """Draw sources and coefficients, and solve in Fourier space."""
        uniforms = draw_uniforms(self.stream, attempt, ids[places])
        of_system = uniforms
        if self.options.get("redraw") == "source" and attempt % SOURCES_FOR_ONE_W:
            of_system = draw_uniforms(self.stream, attempt - attempt % SOURCES_FOR_ONE_W, ids[places])
        of_system = of_system[:, NUM_UNIFORMS : NUM_UNIFORMS + self.system.num_uniforms]
        amplitudes = build_amplitudes(uniforms[:, :NUM_UNIFORMS])
        source, source_hat = build_sources(amplitudes, self.grid, self.system.keep_mean)
        low, high = self.stream.range
        columns = self.system.draw(Draw(of_system, low, high, source_hat, self.grid, self.options)).astype(np.float32)
        # solved with the coefficients as they are stored, so that rounding them is no error of the pair
        operator = build_operator(self.system.expand(columns.astype(np.float64)), self.grid, self.grid)
        if np.any(source_hat[operator.dead]):  # an exact resonance: no solution unless f lacks that wavenumber too
            source_hat[operator.dead] = 0
            source = backward(source_hat, self.grid)
        return _Draws(places, columns, source, source_hat, operator, solve_hat(operator, source_hat))

    def _finish(
        self, batch: Samples, ids: NDArray[np.int64], draws: _Draws, solution: Real, largest: NDArray[np.float64]
    ) -> None:
        """Check accepted draws and put them into the batch."""
        places = draws.places
        defect = residual(draws.operator, solution, draws.source_hat)
        fields = batch.fields
        fields[places, 0], fields[places, 1] = draws.source, solution
        pair = pair_error(self.system, fields[places, 0], fields[places, 1], draws.columns)
        self._refuse(ids[places], defect, LARGEST_RESIDUAL, "the relative residual")
        self._refuse(ids[places], pair, LARGEST_PAIR_ERROR, "the error of the float32 pair")
        rows: dict[str, NDArray[Any]] = {
            "tensor": draws.columns,
            "residual": defect,
            "pair_error": pair,
            "source_norm": _norm(draws.source),
            "solution_norm": _norm(solution),
            "solution_max": largest,
        }
        for name, measure in self.system.measures.items():
            rows[name] = measure(draws.operator, draws.solution_hat)
        for name, values in rows.items():
            if name not in batch.rows:
                batch.rows[name] = np.empty((len(ids), *values.shape[1:]), values.dtype)
            batch.rows[name][places] = values

    def _refuse(self, ids: NDArray[np.int64], value: NDArray[np.float64], limit: float, what: str) -> None:
        bad = ~(value <= limit)  # so that NaN is refused too
        if bad.any():
            at = int(np.argmax(bad))
            raise WrongSampleError(
                f"sample {ids[at]} of {self.stream.split} does not solve {self.system.name}: "
                f"{what} is {value[at]:.2g}, above {limit:g}"
            )


def _norm(field: Real) -> Real:
    """Return ||.||_2 / n (B,), the L2 norm on the unit square."""
    norms: Real = np.sqrt(sum_of_squares(field)) / field.shape[-1]
    return norms
