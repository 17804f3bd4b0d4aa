"""Pictures of fields and curves, made without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def plain(text: str) -> str:
    """Return a text such that a figure shows it letter by letter: two dollar signs, as in names of folders, would make
    it a formula. (Ticks of logarithmic axes are formulas, so that a figure cannot do without them.)"""
    return text.replace("$", r"\$")


def field_comparison(source: Fields, solution: Fields, predicted: Fields) -> NDArray[np.uint8]:
    """Return the comparison of :func:`comparison_figure` as an image (height, width, 3)."""
    return picture_of(comparison_figure(source, solution, predicted))


def picture_of(figure: Figure) -> NDArray[np.uint8]:
    """Return a figure as an image (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
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
        relative = float(np.linalg.norm(error)) / (norm or 1.0)  # as fmsci.metrics.relative_l2
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
            axes[row, 0].set_ylabel(plain(captions[row]), fontsize=9)
    if title:
        figure.suptitle(plain(title), fontsize=11, wrap=True)
    return figure


def sample_captions(columns: Sequence[str], coefficients: NDArray[np.float32]) -> list[str]:
    """Say of each sample its number and its coefficients (B, K), a line for two of them."""
    captions = []
    for number, row in enumerate(coefficients):
        words = [f"{name} = {value:.3g}" for name, value in zip(columns, row, strict=True)]
        pairs = [", ".join(words[at : at + 2]) for at in range(0, len(words), 2)]
        captions.append("\n".join([f"sample {number}", *pairs]))
    return captions


def spectrum_figure(spectrum: NDArray[np.float64], modes: int, title: str) -> Figure:
    """Draw error and solution by wavenumber, ``spectrum`` (2, K + 1): shares of the solution's energy, as amplitudes.

    A line stands where the waves that the Fourier layers mix end.
    """
    figure = _blank(figsize=(6.4, 4.2), dpi=100, layout="constrained")
    axis = figure.subplots()
    shells = np.flatnonzero(spectrum[1] > 0)
    for row, name, style in ((1, "solution", "--"), (0, "error", "-")):
        axis.plot(shells, np.sqrt(np.maximum(spectrum[row, shells], 0.0)), style, label=name, color=f"C{1 - row}")
    axis.axvline(modes, color="0.4", linestyle=":", linewidth=1.5, label=f"modes {modes}")
    axis.set_yscale("log")
    axis.set_xlabel("wavenumber |k|, waves along a side")
    axis.set_ylabel("relative amplitude")
    axis.set_title(plain(title), fontsize=11)
    axis.grid(True, alpha=0.25)
    axis.legend(frameon=False, fontsize=9)
    return figure


def contact_sheet(fields: Fields, captions: Sequence[str], title: str) -> Figure:
    """Draw samples, fields (B, 2, H, W), in two columns of source and solution pairs, each with its caption."""
    rows = (len(fields) + 1) // 2
    figure = _blank(figsize=(11.0, 2.75 * rows + 0.5), dpi=100, layout="constrained")
    figure.suptitle(plain(title), fontsize=11)
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
        left.set_title(plain(f"f, {caption}"), fontsize=8, loc="left")
        right.set_title("u", fontsize=8, loc="left")
    return figure


@dataclass(frozen=True)
class ErrorCurve:
    """One curve of :func:`error_curves`: (samples, smallest, median, largest error over the seeds)."""

    name: str
    points: Sequence[tuple[int, float, float, float]]
    colour: int = 0
    dashed: bool = False


def error_curves(
    curves: Sequence[ErrorCurve], title: str, levels: Mapping[str, tuple[float, int]] | None = None
) -> Figure:
    """Draw error against downstream samples, both logarithmic, with a band over the seeds.

    ``levels`` are horizontal lines, such as zero-shot: name to error and colour.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    figure = _blank(figsize=(6.4, 4.6), dpi=130, layout="constrained")
    axis = figure.subplots()
    markers = ["o", "s", "^", "D"]
    samples = sorted({count for curve in curves for count, *_ in curve.points})
    for index, curve in enumerate(curves):
        counts = [count for count, *_ in curve.points]
        lows, medians, highs = ([point[at] for point in curve.points] for at in (1, 2, 3))
        style: dict[str, Any] = {"color": f"C{curve.colour}", "linestyle": "--" if curve.dashed else "-"}
        axis.plot(counts, medians, marker=markers[index % len(markers)], label=plain(curve.name), linewidth=2, **style)
        if lows != highs:
            axis.fill_between(counts, lows, highs, color=f"C{curve.colour}", alpha=0.2, linewidth=0)
    for name, (level, colour) in (levels or {}).items():
        label = plain(f"{name} ({level:.3g})")
        axis.axhline(level, color=f"C{colour}", linestyle=":", linewidth=1.5, label=label)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(samples, [f"{count:,}" for count in samples], rotation=45 if len(samples) > 8 else 0)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("downstream training samples")
    axis.set_ylabel("relative L2 error on the test split")
    low, high = axis.get_ylim()
    decades = np.log10(high / low)
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0) if decades < 2 else (1.0, 3.0)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_title(plain(title), fontsize=11)
    axis.grid(True, which="both", alpha=0.25)
    _explain(figure, axis)
    return figure


def _explain(figure: Figure, axis: Any) -> None:
    """Name the curves: a few within the axes, where there is room; many below them, where they cover none."""
    handles, names = axis.get_legend_handles_labels()
    if len(names) <= 4:
        axis.legend(frameon=False, fontsize=9)
        return
    columns = 2 if max(map(len, names)) > 18 else 3
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(names) // columns))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def training_curves(lines: Mapping[str, Sequence[tuple[int, float]]], title: str) -> Figure:
    """Draw validation error, logarithmic, against samples seen."""
    figure = _blank(figsize=(6.4, 4.6), dpi=130, layout="constrained")
    axis = figure.subplots()
    for index, (name, points) in enumerate(lines.items()):
        seen, errors = zip(*points, strict=True)
        axis.plot(seen, errors, label=plain(name), linewidth=1.5, linestyle="-" if index < 10 else "--")
    axis.set_yscale("log")
    axis.set_xlabel("samples seen")
    axis.set_ylabel("relative L2 error on the validation split")
    axis.set_title(plain(title), fontsize=11)
    axis.grid(True, which="both", alpha=0.25)
    _explain(figure, axis)
    return figure


def gain_lines(lines: Mapping[str, Sequence[float | None]], ticks: Sequence[str], across: str, title: str) -> Figure:
    """Draw error(scratch) / error(fine-tuned) over models or tasks; a line for each number of samples.

    1 means that pretraining changed nothing; None leaves a gap.
    """
    from matplotlib.ticker import NullLocator

    figure = _blank(figsize=(6.4, 4.2), dpi=130, layout="constrained")
    axis = figure.subplots()
    for name, values in lines.items():
        heights = [float("nan") if value is None else value for value in values]
        axis.plot(range(len(ticks)), heights, marker="o", linewidth=2, label=plain(name))
    axis.axhline(1.0, color="0.4", linestyle=":", linewidth=1.5)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    low, high = axis.get_ylim()
    axis.set_yticks([tick for tick in (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100) if low <= tick <= high])
    axis.set_xticks(range(len(ticks)), [plain(tick) for tick in ticks])
    axis.set_xlabel(across)
    axis.set_ylabel("error from scratch / error fine-tuned")
    axis.set_title(plain(title), fontsize=11)
    axis.grid(True, alpha=0.25)
    axis.legend(frameon=False, fontsize=9, title="samples")
    return figure


def as_svg(figure: Figure) -> bytes:
    """Return a figure as an SVG document, the same bytes each time, letters as outlines (it needs no font)."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "fmsci", "svg.fonttype": "path"}), io.BytesIO() as stream:
        figure.savefig(stream, format="svg", metadata={"Date": None})
        return stream.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Publish a figure as PNG."""
    with publish_file(path) as temporary:
        figure.savefig(temporary, format="png")
