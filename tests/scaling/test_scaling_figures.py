"""Curves of scaling runs say what they show."""

import pytest

from fmsci.scaling.figures import ScalingCurve, projection_scatter, scaling_lines


def test_a_scaling_curve_has_its_ideal_line_and_its_efficiency():
    figure = scaling_lines([ScalingCurve("ddp", [(1, 9.0, 10.0, 11.0), (4, 30.0, 32.0, 33.0)])], "weak scaling")
    figure.canvas.draw()
    above, below = figure.axes
    ideal, *_ = above.get_lines()
    assert list(ideal.get_ydata()) == [10.0, 40.0]
    assert list(below.get_lines()[0].get_ydata()) == pytest.approx([1.0, 0.8])
    assert [tick.get_text() for tick in below.get_xticklabels()] == ["1", "4"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ddp"]


def test_projected_steps_stand_against_measured_ones():
    figure = projection_scatter({"world size": [(0.04, 0.05), (0.6, 0.5)]}, 0.2, "title")
    figure.canvas.draw()
    (axis,) = figure.axes
    points = axis.get_lines()[1]
    assert list(points.get_xdata()) == [40.0, 600.0]
    assert list(points.get_ydata()) == [50.0, 500.0]
    assert axis.get_xlim() == axis.get_ylim()
