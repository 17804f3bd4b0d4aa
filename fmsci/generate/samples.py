"""Make samples: from (stream, i) to a checked float32 pair. Knows neither ranks nor files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmsci.errors import Failure, UserError
from fmsci.generate.draws import Stream, draw_uniforms
from fmsci.pde import System, relative_error
from fmsci.pde.grid import Real, backward, forward, mean_square, sum_of_squares
from fmsci.pde.operator import Solver, Symbols, build_symbols
from fmsci.pde.sources import NUM_UNIFORMS, SourceBuilder, build_amplitudes
from fmsci.pde.system import Draw, Drawn

LARGEST_RESIDUAL = 1e-10
"""Above this relative residual in float64 a sample is wrong, whatever the reason, and the run stops."""

LARGEST_PAIR_ERROR = 1e-5
"""Above this ||u - solve(f)|| / ||u|| a stored float32 pair is wrong."""

SOLVED_AGAIN_EVERY = 64
"""Of so many samples one is solved anew from its stored source, as a reader would, and held against its bound."""

BOUND_SLACK = 1.01
"""The bound divides by ||u|| before rounding, the error by that after it, and both are themselves rounded."""

BATCH_BYTES = 1 << 21
"""Size of a batch of fields: what is drawn together, and written together. The samples do not depend on it."""

SOURCES_FOR_ONE_W = 1000
"""With redraw = source, so many sources are tried before the coefficients are drawn anew too."""

MOST_ATTEMPTS = 100_000
"""After so many rejected draws of one sample its range is hopeless."""


class WrongSampleError(Failure):
    """A sample that does not solve its equation: a range too near a resonance, or a fault; it is never stored."""


@dataclass(frozen=True)
class Samples:
    """B finished samples."""

    fields: NDArray[np.float32]
    """(B, 2, n, n): source, solution."""
    rows: dict[str, NDArray[Any]]
    """(B, ...) of the other datasets, by name."""
    tallied: list[NDArray[np.float32]]
    """The tallied coefficient of every draw, rejected ones included; empty where nothing is ever rejected."""


class SampleMaker:
    """Makes the samples of one stream on one grid."""

    def __init__(self, system: System, stream: Stream, grid: int, options: Mapping[str, str] | None = None) -> None:
        """Take ``options`` for the system's choices; its defaults where they are silent."""
        self.system, self.stream, self.grid = system, stream, grid
        self.options = {name: choices[0] for name, choices in system.options.items()} | dict(options or {})
        self._source = SourceBuilder(grid, system.keep_mean)
        self._solver = Solver(grid, grid)
        self._difference = np.empty((grid, grid))
        self._at_once = max(1, BATCH_BYTES // (8 * grid**2))
        self._fields = np.empty((self._at_once, 2, grid, grid), np.float32)

    def make(self, first: int, count: int) -> Iterator[Samples]:
        """Yield the samples first .. first + count - 1, a batch at a time; the next batch overwrites its fields.

        Raises:
            WrongSampleError: naming a sample whose residual is too large.
            UserError: where a sample's draws are rejected for ever.
        """
        for begin in range(first, first + count, self._at_once):
            yield self._make_batch(np.arange(begin, min(begin + self._at_once, first + count)))

    def _make_batch(self, ids: NDArray[np.int64]) -> Samples:
        """Return the samples ``ids`` (B,): draw, and draw the rejected ones again, until all are there."""
        names = ("residual", "pair_error", "source_norm", "solution_norm", "solution_max", *self.system.figures)
        rows: dict[str, NDArray[Any]] = {name: np.empty(len(ids)) for name in names}
        rows["tensor"] = np.empty((len(ids), len(self.system.columns)), np.float32)
        batch = Samples(self._fields[: len(ids)], rows, [])
        pending = np.arange(len(ids))
        for attempt in range(MOST_ATTEMPTS):
            amplitudes, drawn = self._draw(ids[pending], attempt)
            rows["tensor"][pending] = drawn.columns
            for name, values in drawn.figures.items():
                rows[name][pending] = values
            if self.system.tally is not None:
                batch.tallied.append(drawn.columns[:, self.system.tallied_column])
            # solved with the coefficients as they are stored, so that rounding them is no error of the pair
            coefficients = self.system.expand(drawn.columns.astype(np.float64))
            symbols = build_symbols(coefficients, self.grid, self.grid)
            kept = [self._solve(amplitudes[at], symbols, at, batch, int(place)) for at, place in enumerate(pending)]
            pending = pending[~np.array(kept, dtype=bool)]
            if pending.size == 0:
                self._check(ids, batch)
                return batch
        raise UserError(
            f"{self.system.name} {list(self.stream.range)}: sample {ids[pending[0]]} of {self.stream.split} still has "
            f"max|u| > {self.system.max_solution:g} after {MOST_ATTEMPTS:,} draws; the range is too near a resonance"
        )

    def _draw(self, ids: NDArray[np.int64], attempt: int) -> tuple[Real, Drawn]:
        """Return the amplitudes and the coefficients of one attempt at some samples."""
        uniforms = of_system = draw_uniforms(self.stream, attempt, ids)
        if self.options.get("redraw") == "source" and attempt % SOURCES_FOR_ONE_W:
            of_system = draw_uniforms(self.stream, attempt - attempt % SOURCES_FOR_ONE_W, ids)
        of_system = of_system[:, NUM_UNIFORMS : NUM_UNIFORMS + self.system.num_uniforms]
        amplitudes = build_amplitudes(uniforms[:, :NUM_UNIFORMS])
        low, high = self.stream.range
        try:
            return amplitudes, self.system.draw(Draw(of_system, low, high, amplitudes, self.grid, self.options))
        except ArithmeticError as error:
            raise UserError(
                f"{self.system.name} [{low:g}, {high:g}]: {error} (one of the samples {ids[0]} to {ids[-1]} of "
                f"{self.stream.split}); choose another range"
            ) from None

    def _solve(self, amplitudes: Real, symbols: Symbols, at: int, batch: Samples, place: int) -> bool:
        """Make one sample from a draw and put it at its place of the batch; False where the draw is rejected."""
        source, solver, limit = self._source, self._solver, self.system.max_solution
        source.build(amplitudes)
        solver.take(symbols, at)
        if solver.remove_unsolvable(source.field_hat):
            source.field[:] = backward(source.field_hat, self.grid)
        solution_hat = solver.solve_hat(source.field_hat)
        if limit is not None and mean_square(solution_hat, self.grid) > 1.001 * limit**2:
            return False  # max|u| is at least the root mean square, which needs no transform
        solution = solver.backward()
        largest = max(float(solution.max()), -float(solution.min()))
        if limit is not None and largest > limit:
            return False
        norm = _root_mean_square(source.field)
        rows = batch.rows
        defect = solver.defect(source.field_hat)
        solution_norm = _root_mean_square(solution)
        stored = batch.fields[place]
        stored[0], stored[1] = source.field, solution
        rows["residual"][place] = defect / norm
        rows["source_norm"][place], rows["solution_norm"][place] = norm, solution_norm
        rows["solution_max"][place] = largest
        # u* stored and f* stored: ||u* - solve(f*)|| <= ||u* - u|| + (||L u - f|| + ||f - f*||) / min |symbol|
        of_source = (defect + self._distance(source.field, stored[0])) / solver.smallest
        rows["pair_error"][place] = (self._distance(solution, stored[1]) + of_source) / (solution_norm or 1.0)
        return True

    def _distance(self, exact: Real, stored: NDArray[np.float32]) -> float:
        """Return the root mean square of what a field lost when it was stored."""
        return _root_mean_square(np.subtract(exact, stored, out=self._difference))

    def _check(self, ids: NDArray[np.int64], batch: Samples) -> None:
        """Refuse wrong residuals and stored pairs. A bound that says too little gives way to the error itself."""
        rows = batch.rows
        self._refuse(ids, rows["residual"], LARGEST_RESIDUAL, "the relative residual")
        bound = rows["pair_error"]
        for place in np.flatnonzero((ids % SOLVED_AGAIN_EVERY == 0) | ~(bound <= LARGEST_PAIR_ERROR)):
            error = np.array([self._pair_error(rows["tensor"][place : place + 1], batch.fields[place])])
            what = "the error of the stored pair, solved again,"
            self._refuse(ids[place : place + 1], error, float(bound[place]) * BOUND_SLACK, what)
            if bound[place] > LARGEST_PAIR_ERROR:
                bound[place] = error[0]
        self._refuse(ids, bound, LARGEST_PAIR_ERROR, "the error of the float32 pair")

    def _pair_error(self, tensor: NDArray[np.float32], fields: NDArray[np.float32]) -> float:
        """Return ||u - solve(f)|| / ||u|| of a stored pair, as a reader finds it."""
        source, solution = fields.astype(np.float64)
        self._solver.take(build_symbols(self.system.expand(tensor.astype(np.float64)), self.grid, self.grid), 0)
        self._solver.solve_hat(forward(source))
        return relative_error(solution, self._solver.backward())

    def _refuse(self, ids: NDArray[np.int64], value: NDArray[np.float64], limit: float, what: str) -> None:
        bad = ~(value <= limit)  # so that NaN is refused too
        if bad.any():
            at = int(np.argmax(bad))
            raise WrongSampleError(
                f"sample {ids[at]} of {self.stream.split} does not solve {self.system.name}: "
                f"{what} is {value[at]:.2g}, above {limit:g}"
            )


def _root_mean_square(field: Real) -> float:
    return float((sum_of_squares(field) / field.size) ** 0.5)
