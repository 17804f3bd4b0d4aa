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
    """A value with its interval; infinite where the error is not reached, or, as ``low``, in some draws only."""

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
    """Return the samples that the median curve needs for an error, with an interval by bootstrap over seeds."""
    drawn = [samples_to_reach(points, error) for points in draws((curve,))[0]]
    low, high = _percentiles(drawn)
    return Estimate(samples_to_reach(curve.medians, error), low, high)


def gain(finetune: Curve, scratch: Curve, error: float) -> Estimate | None:
    """Return samples(scratch) / samples(fine-tuned) at the same error.

    A lower bound where the fine-tuned arm is there with its first number of samples, or the one from scratch not with
    its last (see :func:`is_bound`): its ``high`` is infinite then. None where the fine-tuned arm does not reach the
    error, or the one from scratch is there with its first number: then nothing is known.
    """
    tuned = samples_to_reach(finetune.medians, error)
    if math.isinf(tuned) or not scratch.medians or at_once(scratch, error):
        return None
    most = max(samples for samples, _ in scratch.medians)
    needs = [
        (samples_to_reach(one, error), samples_to_reach(other, error))
        for one, other in zip(*draws((finetune, scratch)), strict=True)
    ]
    # Of a draw in which neither arm gets there nothing is known.
    needs = [(one, other) for one, other in needs if math.isfinite(one) or math.isfinite(other)]
    low, _ = _percentiles([min(other, most) / one for one, other in needs] or [0.0])  # over infinite: 0
    _, high = _percentiles([other / one for one, other in needs] or [math.inf])
    bound = is_bound(finetune, scratch, error)
    return Estimate(min(samples_to_reach(scratch.medians, error), most) / tuned, low, math.inf if bound else high)


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
