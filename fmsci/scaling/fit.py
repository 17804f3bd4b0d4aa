"""The numbers of the cost model from measured points, by least squares of relative errors. Pure functions."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fmsci.config.scaling import LinkSettings, NetworkSettings
from fmsci.scaling.cost import BACKWARD, Compute, CostModel, Link
from fmsci.scaling.measured import Measured

Values = NDArray[np.float64]
START = Link(latency_s=1e-4, byte_s=1e-9, limited=1.0)
"""Where the search for a link begins; its numbers also tell of what size each of them is."""
OVERLAPS = [step / 20 for step in range(21)]


def fit(measured: Sequence[Measured], network: NetworkSettings | None = None) -> CostModel:
    """Return the cost model of the points; classes of links without points are as ``network`` assumes them.

    Computing comes from the steps without any exchange, so links are fitted to what exchanging adds to those.
    """
    network = network or NetworkSettings()
    apart = fit_computing(measured)
    model = replace(apart, inside=_assumed(network.inside), between=_assumed(network.between), rounds=network.rounds)
    return fit_links(model, measured)


def _assumed(link: LinkSettings | None) -> Link | None:
    return None if link is None else Link(1e-6 * link.latency_us, 1e-9 / link.gbytes_s, overlap=link.overlap)


# ------------------------------------------------------------------ computing


def fit_computing(measured: Sequence[Measured]) -> CostModel:
    """Return a model that knows computing alone: by what is computed, by ranks, and DeepSpeed's share."""
    groups: dict[tuple[str, ...], list[Measured]] = {}
    for one in measured:
        groups.setdefault(one.computing, []).append(one)
    compute = {}
    for key, members in groups.items():
        single = [one for one in members if one.point.world_size == 1] or members
        update = statistics.median(one.update_s for one in single)
        times: dict[float, list[float]] = {}
        for one in single:
            pieces = one.point.how.accumulate
            times.setdefault(one.point.local / pieces, []).append((one.alone_s - one.update_s) / pieces)
        medians = {samples: statistics.median(some) for samples, some in times.items()}
        compute[key] = replace(fit_line(medians), update_s=update)
    model = CostModel(compute, on_gpu=any(one.device != "cpu" for one in measured))
    crowd: dict[int, list[float]] = {}
    for one in measured:
        own = compute[one.computing]
        usual = own.seconds(one.point.local, one.point.how.accumulate) + own.update_s
        crowd.setdefault(one.point.world_size, []).append(one.alone_s / usual)
    factors = {ranks: statistics.median(some) for ranks, some in sorted(crowd.items()) if ranks > 1}
    return replace(model, crowd=factors, zero=_deepspeed(measured))


def fit_line(times: dict[float, float]) -> Compute:
    """Return floor, fixed part and slope of {samples: seconds}: the first few level, a line through the others.

    Every split is tried, the best kept; errors are relative. One number alone gives a line through the origin.
    """
    x, y = (np.array(values, dtype=float) for values in zip(*sorted(times.items()), strict=True))
    if len(x) == 1:
        return Compute(0.0, 0.0, float(y[0] / x[0]), 0.0)
    best: tuple[float, Compute] | None = None
    for level in range(len(x) - 1):
        rest = slice(level, None)
        line = np.stack((np.ones(len(x) - level), x[rest]), axis=1) / y[rest, None]
        fixed, slope = _non_negative(line, np.ones(len(x) - level))
        floor = float(np.mean(y[:level])) if level else 0.0
        trial = Compute(floor, float(fixed), float(slope), 0.0)
        error = sum((trial.seconds(samples) / took - 1) ** 2 for samples, took in zip(x, y, strict=True))
        if best is None or error < best[0]:
            best = error, trial
    assert best is not None
    return best[1]


def _deepspeed(measured: Sequence[Measured]) -> tuple[float, float]:
    """Return what DeepSpeed adds to a step on one rank: (seconds, seconds a parameter)."""
    alone = [one for one in measured if one.point.world_size == 1 and one.point.how.kind == "zero"]
    if not alone:
        return 0.0, 0.0
    added = np.array([max(0.0, one.step_s - one.alone_s) for one in alone])
    counts = np.array([float(one.point.shape.num_parameters) for one in alone])
    if len(set(counts.tolist())) == 1:
        return float(np.median(added)), 0.0
    step, parameter = _non_negative(np.stack((np.ones(len(alone)), counts), axis=1), added)
    return float(step), float(parameter)


# ------------------------------------------------------------------ links


def fit_links(model: CostModel, measured: Sequence[Measured]) -> CostModel:
    """Return the model with the links of every class for which there are points."""
    several = [one for one in measured if one.point.world_size > 1]
    for name, members in (
        ("inside", [one for one in several if one.nodes == 1]),
        ("between", [one for one in several if one.nodes > 1]),
    ):
        if members:
            model = replace(model, **{name: _fit_link(model, name, members)})  # type: ignore[arg-type]
    return model


def _fit_link(model: CostModel, name: str, members: Sequence[Measured]) -> Link:
    """Return the link that explains best what exchanging adds; each overlap is tried.

    What is added is made of straight pieces in the three other numbers, so a few least squares, each of the piece that
    the last one lies in, find them.
    """
    scale = np.array([one.step_s for one in members])
    added = np.array([one.step_s - one.wait_s - bare_s(one, model) for one in members]) / scale
    windows = [BACKWARD * (one.alone_s - one.update_s) / one.point.how.accumulate for one in members]
    unknown = {"latency_s": START.latency_s, "byte_s": START.byte_s}
    if any(one.point.limit_mbit is not None for one in members) and name == "between":
        unknown["limited"] = START.limited
    best: tuple[float, Link] | None = None
    for overlap in OVERLAPS:

        def trial(values: Values, overlap: float = overlap) -> Link:
            found = dict(zip(unknown, map(float, values), strict=True))
            return replace(START, overlap=overlap, measured=True, **found)

        def explained(values: Values, trial: Callable[..., Link] = trial) -> Values:
            changed = replace(model, **{name: trial(values)})  # type: ignore[arg-type]
            seconds = [
                changed.exchange_s(one.point, one.nodes, window, one.replayed)
                for one, window in zip(members, windows, strict=True)
            ]
            relative: Values = np.array(seconds) / scale
            return relative

        values = _piecewise(explained, added, np.array(list(unknown.values())))
        error = float(np.sum((explained(values) - added) ** 2))
        if best is None or error < best[0] - 1e-12:
            best = error, trial(values)
    assert best is not None
    return best[1]


def bare_s(one: Measured, model: CostModel) -> float:
    """Return what the engine of a point takes without any exchange: its measured steps alone, and DeepSpeed's share."""
    own = model.zero[0] + model.zero[1] * one.point.shape.num_parameters if one.point.how.kind == "zero" else 0.0
    return one.bare_s + own * model.crowding(one.point.world_size)


def _piecewise(explained: Callable[[Values], Values], wanted: Values, start: Values) -> Values:
    """Return the values >= 0 at which ``explained``, made of linear pieces, is closest to ``wanted``."""
    best, least, values = start, float("inf"), start
    for _ in range(20):
        here = explained(values)
        error = float(np.sum((here - wanted) ** 2))
        if error < least:
            best, least = values, error
        steps = 1e-4 * np.maximum(values, 1e-3 * start)
        slopes = np.stack(
            [
                (explained(values + step * unit) - here) / step
                for step, unit in zip(steps, np.eye(len(values)), strict=True)
            ],
            axis=1,
        )
        found = _non_negative(slopes, wanted - here + slopes @ values)
        if np.allclose(found, values, rtol=1e-9, atol=0):
            break
        values = found
    return best


def _non_negative(columns: Values, wanted: Values) -> Values:
    """Return x >= 0 with the least |columns x - wanted|: every choice of those above 0 is tried."""
    count = columns.shape[1]
    best, least = np.zeros(count), float(np.sum(wanted**2))
    size = np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
    for chosen in itertools.chain.from_iterable(itertools.combinations(range(count), k) for k in range(1, count + 1)):
        some = list(chosen)
        found = np.linalg.lstsq(columns[:, some] / size[some], wanted, rcond=None)[0] / size[some]
        error = float(np.sum((columns[:, some] @ found - wanted) ** 2))
        if (found >= 0).all() and error < least - 1e-15:
            best, least = np.zeros(count), error
            best[some] = found
    return best
