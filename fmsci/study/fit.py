"""Samples needed to reach an error, the gain of pretraining, power laws: from the curves, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fmsci.study.found import Curve, Point

ROUNDS = 400
"""Bootstrap rounds; the draws have a seed of their own, so that a report is the same each time."""
COVERED = (5.0, 95.0)
"""Percentiles of an interval."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; infinite where the error is not reached, or, as ``high``, in some draws only.

    An end of 0 is open: nothing bounds the value from below.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PowerLaw:
    """error = a N^-b."""

    a: float
    b: float

    def error(self, samples: float) -> float:
        """Return the error at a number of samples."""
        return float(self.a * samples**-self.b)


def power_law(points: Sequence[tuple[float, float]]) -> PowerLaw | None:
    """Return the least squares fit of error = a N^-b in logarithms; None from fewer than two numbers of samples."""
    if len({samples for samples, _ in points}) < 2:
        return None
    x, y = np.log(np.array(points, dtype=np.float64)).T
    slope, offset = np.polyfit(x, y, 1)
    return PowerLaw(float(np.exp(offset)), float(-slope))


def samples_to_reach(points: Sequence[tuple[float, float]], error: float) -> float:
    """Return the samples where a curve first falls to ``error``, by interpolation in logarithms.

    Infinite where it never does (nothing is extrapolated); the first number of samples where it is there at once: an
    upper bound then.
    """
    ordered = sorted(points)
    for at, (samples, value) in enumerate(ordered):
        if value > error:
            continue
        if at == 0:
            return float(samples)
        before, above = ordered[at - 1]
        share = (math.log(above) - math.log(error)) / (math.log(above) - math.log(value))
        return float(math.exp(math.log(before) + share * (math.log(samples) - math.log(before))))
    return math.inf


def reach(curve: Curve, error: float) -> Estimate:
    """Return the samples that the median curve needs for an error, with an interval by bootstrap over seeds.

    A draw that is there with its first number of samples may need any fewer: it counts as 0 for ``low``.
    """
    drawn = draws((curve,))[0]
    needed = [samples_to_reach(points, error) for points in drawn]
    low, _ = _percentiles(
        [0.0 if points and min(points)[1] <= error else n for points, n in zip(drawn, needed, strict=True)]
    )
    _, high = _percentiles(needed)
    return Estimate(samples_to_reach(curve.medians, error), low, high)


def gain(finetune: Curve, scratch: Curve, error: float) -> Estimate | None:
    """Return samples(scratch) / samples(fine-tuned) at the same error.

    A lower bound where the fine-tuned arm is there with its first number of samples, or the one from scratch not with
    its last (see :func:`is_bound`): its ``high`` is infinite then. None where the fine-tuned arm does not reach the
    error, or the one from scratch is there with its first number: then nothing is known. A draw for which one of these
    holds bounds the gain on one side only: it counts as infinite for ``high``, or as 0 for ``low``.
    """
    tuned = samples_to_reach(finetune.medians, error)
    if math.isinf(tuned) or not scratch.medians or at_once(scratch, error):
        return None
    most = max(samples for samples, _ in scratch.medians)
    # Of a draw in which neither arm gets there nothing is known, and it is left out.
    bounds = [_drawn_gain(one, other, error) for one, other in zip(*draws((finetune, scratch)), strict=True)]
    known = [one for one in bounds if one is not None] or [(0.0, math.inf)]
    low, _ = _percentiles([least for least, _ in known])
    _, high = _percentiles([largest for _, largest in known])
    bound = is_bound(finetune, scratch, error)
    return Estimate(min(samples_to_reach(scratch.medians, error), most) / tuned, low, math.inf if bound else high)


def _drawn_gain(
    finetune: Sequence[tuple[float, float]], scratch: Sequence[tuple[float, float]], error: float
) -> tuple[float, float] | None:
    """Return the least and the largest gain that one draw leaves open; None where neither curve gets to the error.

    A curve that never gets there needs more than its largest number of samples, one that is there at once may need
    any fewer than its first.
    """
    tuned, alone = samples_to_reach(finetune, error), samples_to_reach(scratch, error)
    if math.isinf(tuned) and math.isinf(alone):
        return None
    tuned_end, alone_end = (max(samples for samples, _ in points) for points in (finetune, scratch))
    least = 0.0 if math.isinf(tuned) or min(scratch)[1] <= error else min(alone, alone_end) / tuned
    largest = math.inf if math.isinf(alone) or min(finetune)[1] <= error else alone / min(tuned, tuned_end)
    return least, largest


def is_bound(finetune: Curve, scratch: Curve, error: float) -> bool:
    """Tell whether a gain is a lower bound only: the true one may be any larger."""
    return at_once(finetune, error) or math.isinf(samples_to_reach(scratch.medians, error))


def at_once(curve: Curve, error: float) -> bool:
    """Tell whether a curve is at an error with its first number of samples: fewer might do."""
    return bool(curve.medians) and curve.medians[0][1] <= error


@lru_cache(maxsize=256)
def draws(curves: tuple[Curve, ...]) -> list[list[list[tuple[int, float]]]]:
    """Return for each curve ROUNDS median curves of seeds drawn with replacement; a report asks for many errors.

    A seed is drawn as a whole: its samples are nested along a curve and the same in both arms, so its errors go
    together. A point that lacks some of the seeds takes those of a draw that it has; all of its own where it has none
    of them, since a run that is missing is no error that is not reached.
    """
    seeds = list(dict.fromkeys(seed for curve in curves for point in curve.points for seed in point.seeds))
    rounds = np.random.default_rng(0).random((ROUNDS, len(seeds)))
    drawn = [[seeds[int(share * len(seeds))] for share in shares] for shares in rounds]

    def once(point: Point, draw: Sequence[int]) -> float:
        errors = dict(zip(point.seeds, point.errors, strict=True))
        return float(np.median([errors[seed] for seed in draw if seed in errors] or point.errors))

    return [
        [[(point.samples, once(point, draw)) for point in curve.points if point.errors] for draw in drawn]
        for curve in curves
    ]


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(np.array(values), COVERED, method="inverted_cdf")
    return float(low), float(high)
