"""Pictures of fields and curves. The only importer of matplotlib; figures are made without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fmsci.files import publish_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Fields = NDArray[np.float32]


def _blank(**options: Any) -> Figure:
    """Return an empty figure. Imported here: else a fifth of the start of a run that draws nothing."""
    from matplotlib.figure import Figure

    return Figure(**options)


def field_comparison(source: Fields, solution: Fields, predicted: Fields) -> NDArray[np.uint8]:
    """Return the comparison of :func:`comparison_figure` as an image (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(comparison_figure(source, solution, predicted))
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.array(canvas.buffer_rgba(), dtype=np.uint8)  # type: ignore[no-untyped-call]
    return pixels[:, :, :3]


def comparison_figure(
    source: Fields, solution: Fields, predicted: Fields, title: str = "", captions: Sequence[str] = ()
) -> Figure:
    """Draw one row a sample: source, solution, prediction, error; (B, H, W) each. ``captions`` stand at the rows.

    Solution and prediction share one colour scale, centred on 0; the error has its own, written at its bar.
    """
    rows = len(source)
    figure = _blank(figsize=(12.0, 2.9 * rows + 0.2), dpi=100, layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False)
    for row in range(rows):
        error = predicted[row] - solution[row]
        norm = float(np.linalg.norm(solution[row]))
        relative = float(np.linalg.norm(error)) / norm if norm else float("nan")
        limit = float(np.abs(solution[row]).max()) or 1.0
        small = float(np.abs(error).max()) or 1.0
        panels = [
            ("source f", source[row], "viridis", None),
            ("solution u", solution[row], "RdBu_r", limit),
            ("prediction", predicted[row], "RdBu_r", limit),
            (f"error, relative L2 = {relative:.3f}", error, "PuOr_r", small),
        ]
        for axis, (name, field, colours, bound) in zip(axes[row], panels, strict=True):
            bounds = {} if bound is None else {"vmin": -bound, "vmax": bound}
            image = axis.imshow(field, origin="lower", extent=(0, 1, 0, 1), cmap=colours, **bounds)
            axis.set_title(name, fontsize=10)
            axis.set_xticks([])
            axis.set_yticks([])
            bar = figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03)
            bar.ax.tick_params(labelsize=7)
        if captions:
            axes[row, 0].set_ylabel(captions[row], fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11, wrap=True)
    return figure


def contact_sheet(fields: Fields, captions: Sequence[str], title: str) -> Figure:
    """Draw samples, fields (B, 2, H, W), in two columns of source and solution pairs, each with its caption."""
    rows = (len(fields) + 1) // 2
    figure = _blank(figsize=(11.0, 2.75 * rows + 0.5), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, 4, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for index, ((source, solution), caption) in enumerate(zip(fields, captions, strict=True)):
        row, column = divmod(index, 2)
        bound = float(np.abs(solution).max()) or 1.0
        left, right = axes[row, 2 * column], axes[row, 2 * column + 1]
        for axis, field, colours, limits in (
            (left, source, "viridis", {}),
            (right, solution, "RdBu_r", {"vmin": -bound, "vmax": bound}),
        ):
            image = axis.imshow(field, origin="lower", extent=(0, 1, 0, 1), cmap=colours, **limits)
            figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03).ax.tick_params(labelsize=7)
        left.set_title(f"f, {caption}", fontsize=8, loc="left")
        right.set_title("u", fontsize=8, loc="left")
    return figure


def error_curves(
    curves: Mapping[str, Sequence[tuple[int, float]]], title: str, levels: Mapping[str, float] | None = None
) -> Figure:
    """Draw error against downstream samples, both logarithmic; ``levels`` are horizontal lines, such as zero-shot."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure = _blank(figsize=(6.4, 4.4), dpi=130, layout="constrained")
    axis = figure.subplots()
    markers = ["o", "s", "^", "D"]
    samples = sorted({count for points in curves.values() for count, _ in points})
    for index, (name, points) in enumerate(curves.items()):
        axis.plot(
            [count for count, _ in points],
            [error for _, error in points],
            marker=markers[index % len(markers)],
            label=name,
            linewidth=2,
        )
    for name, level in (levels or {}).items():
        axis.axhline(level, color="0.45", linestyle="--", linewidth=1.2, label=f"{name} ({level:.3f})")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(samples, [f"{count:,}" for count in samples])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("downstream training samples")
    axis.set_ylabel("relative L2 error on the test split")
    low, high = axis.get_ylim()
    decades = np.log10(high / low)
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0) if decades < 2 else (1.0, 3.0)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_title(title, fontsize=11)
    axis.grid(True, which="both", alpha=0.25)
    axis.legend(frameon=False)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Publish a figure as PNG."""
    with publish_file(path) as temporary:
        figure.savefig(temporary, format="png")
