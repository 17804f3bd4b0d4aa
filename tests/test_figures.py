"""Pictures say what they show, in letters of one size."""

import numpy as np
import pytest
from matplotlib.text import Text

from fmsci.figures import (
    ErrorCurve,
    as_svg,
    comparison_figure,
    contact_sheet,
    error_curves,
    gain_lines,
    picture_of,
    save_figure,
    spectrum_figure,
    training_curves,
)
from fmsci.scaling.figures import ScalingCurve, projection_scatter, scaling_lines


@pytest.mark.parametrize("errors", [(0.27, 0.16, 0.037), (0.26, 0.25, 0.255), (0.9, 0.01, 1e-4)])
def test_an_axis_of_errors_has_readable_ticks_of_one_size(errors):
    points = [(count, 0.9 * error, error, 1.1 * error) for count, error in zip((16, 64, 256), errors, strict=True)]
    figure = error_curves([ErrorCurve("scratch", points)], "title", {"zero-shot": (0.1, 1)})
    figure.canvas.draw()
    (axis,) = figure.axes
    low, high = axis.get_ylim()
    shown = [tick for tick in axis.get_yticklabels(which="both") if low <= tick.get_position()[1] <= high]
    words = [tick.get_text() for tick in shown if tick.get_text()]
    assert 2 <= len(words) <= 12
    assert all(float(word) > 0 for word in words)
    assert len({tick.get_fontsize() for tick in shown}) == 1
    assert [tick.get_text() for tick in axis.get_xticklabels(which="both")] == ["16", "64", "256"]


def test_a_comparison_names_what_it_compares():
    fields = np.random.default_rng(0).normal(size=(3, 2, 8, 8)).astype(np.float32)
    figure = comparison_figure(
        *fields, title="model on data, test", captions=["sample 0, k11 = 1", "sample 1, k11 = 2"]
    )
    assert figure.get_suptitle() == "model on data, test"
    rows = [axis.get_ylabel() for axis in figure.axes if axis.get_title() == "source f"]
    assert rows == ["sample 0, k11 = 1", "sample 1, k11 = 2"]


@pytest.mark.parametrize("name", ["a$_$b", "$x", "a$^$b$_$c", r"a\$b$_$"])
def test_names_with_dollar_signs_are_drawn_letter_by_letter(name):
    fields = np.ones((3, 1, 8, 8), np.float32)
    drawn = [
        comparison_figure(*fields, title=name, captions=[name]),
        contact_sheet(fields[:2].swapaxes(0, 1), [name], name),
        spectrum_figure(np.ones((2, 8)), 4, name),
        error_curves([ErrorCurve(name, [(4, 0.1, 0.2, 0.3), (8, 0.1, 0.2, 0.3)])] * 5, name, {name: (0.2, 1)}),
        training_curves({name: [(1, 0.1), (2, 0.2)]}, name),
        gain_lines({name: [1.0, 2.0]}, [name, "b"], "task", name),
        scaling_lines([ScalingCurve(name, [(1, 1.0, 1.0, 1.0), (2, 2.0, 2.0, 2.0)])], name),
        projection_scatter({name: [(1.0, 1.1)]}, 0.1, name),
    ]
    for figure in drawn:
        assert as_svg(figure)
        shown = [text._preprocess_math(text.get_text()) for text in figure.findobj(Text)]
        assert any(name in words for words, _ in shown)
        assert not any(formula for words, formula in shown if name in words)


def test_curves_hold_the_points_and_the_bands_they_were_given(tmp_path):
    curves = [
        ErrorCurve("a", [(16, 0.4, 0.5, 0.6), (64, 0.2, 0.25, 0.3)]),
        ErrorCurve("b", [(16, 0.9, 0.9, 0.9)], 1, True),
    ]
    figure = error_curves(curves, "title", {"zero-shot": (0.3, 0)})
    (axis,) = figure.axes
    assert axis.lines[0].get_xydata().tolist() == [[16, 0.5], [64, 0.25]]
    assert axis.lines[1].get_linestyle() == "--"
    (band,) = axis.collections  # one seed has none
    assert {tuple(point) for point in band.get_paths()[0].vertices} >= {(16, 0.4), (16, 0.6), (64, 0.2), (64, 0.3)}
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b", "zero-shot (0.3)"]
    save_figure(figure, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    first, second = (as_svg(error_curves(curves, "title")) for _ in range(2))
    assert first == second
    assert b"<svg" in first


def test_gains_leave_a_gap_where_one_is_missing():
    figure = gain_lines({"64": [2.0, None, 8.0]}, ["64K", "1M", "16M"], "size", "title")
    (axis,) = figure.axes
    assert axis.lines[0].get_ydata()[[0, 2]].tolist() == [2.0, 8.0]
    assert np.isnan(axis.lines[0].get_ydata()[1])
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["64K", "1M", "16M"]


@pytest.mark.parametrize(("count", "inside"), [(4, True), (5, False)])
def test_the_names_of_many_curves_stand_below_them(count, inside):
    curves = [ErrorCurve(f"curve {index}", [(16, 0.1, 0.1, 0.1), (64, 0.05, 0.05, 0.05)]) for index in range(count)]
    figure = error_curves(curves, "title")
    (axis,) = figure.axes
    assert (axis.get_legend() is not None) == inside
    picture_of(figure)  # lays it out
    (legend,) = [axis.get_legend()] if inside else figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [curve.name for curve in curves]
    below = legend.get_window_extent().y1 <= axis.get_window_extent().y0
    assert below != inside
