"""Curves of scaling runs, drawn without a display; matplotlib is imported where something is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fmsci.figures import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ScalingCurve:
    """One curve of :func:`scaling_lines`: (ranks, samples a second: slowest, median, fastest repeat)."""

    name: str
    points: Sequence[tuple[int, float, float, float]]


def scaling_lines(curves: Sequence[ScalingCurve], title: str) -> Figure:
    """Draw samples a second against ranks with each curve's ideal line, and the efficiency below."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(7.2, 6.4 + 0.1 * len(curves)), dpi=130, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for index, curve in enumerate(curves):
        ranks = np.array([point[0] for point in curve.points])
        low, rates, high = (np.array([point[at] for point in curve.points]) for at in (1, 2, 3))
        colour = f"C{index % 10}"
        above.plot(ranks, rates[0] / ranks[0] * ranks, color=colour, linestyle=":", linewidth=1)
        error = np.stack((rates - low, high - rates))
        above.errorbar(ranks, rates, error, color=colour, marker="o", capsize=3, label=plain(curve.name))
        below.plot(ranks, rates / ranks / (rates[0] / ranks[0]), color=colour, marker="o")
    above.set_xscale("log", base=2)
    above.set_yscale("log", base=2)
    every = sorted({point[0] for curve in curves for point in curve.points})
    above.set_xticks(every, [f"{count:,}" for count in every])
    above.xaxis.set_minor_locator(NullLocator())
    above.yaxis.set_major_formatter("{x:,g}")
    above.set_ylabel("samples a second (dotted: ideal)")
    below.set_ylabel("efficiency")
    below.set_xlabel("ranks")
    below.axhline(1.0, color="0.4", linestyle=":", linewidth=1)
    below.set_ylim(0, max(1.1, below.get_ylim()[1]))
    for axis in (above, below):
        axis.grid(True, alpha=0.25)
    above.set_title(plain(title), fontsize=11)
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def projection_scatter(groups: Mapping[str, Sequence[tuple[float, float]]], within: float, title: str) -> Figure:
    """Draw projected against measured seconds of a step, a colour a group, with the band ``within`` of the diagonal."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(5.4, 5.0), dpi=130, layout="constrained")
    axis = figure.subplots()
    every = [value for points in groups.values() for pair in points for value in pair]
    ends = np.array([min(every) / 1.3, max(every) * 1.3]) * 1e3
    axis.fill_between(ends, ends * (1 - within), ends * (1 + within), color="0.5", alpha=0.15, linewidth=0)
    axis.plot(ends, ends, color="0.4", linestyle=":", linewidth=1)
    for index, (name, points) in enumerate(groups.items()):
        measured, projected = (1e3 * np.array(values) for values in zip(*points, strict=True))
        style = f"C{index}{'os^D'[index % 4]}"
        axis.plot(measured, projected, style, markersize=5 + 2 * index, fillstyle="none", label=plain(name))
    axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    for line in (axis.xaxis, axis.yaxis):
        line.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        line.set_minor_locator(NullLocator())
        line.set_major_formatter("{x:g}")
    axis.set_xlabel("measured step, ms")
    axis.set_ylabel("projected step, ms (never fitted to it)")
    axis.set_title(plain(title), fontsize=11)
    axis.grid(True, alpha=0.25)
    axis.legend(frameon=False, fontsize=8)
    return figure
