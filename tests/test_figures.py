"""Pictures say what they show, in letters of one size."""

import numpy as np
import pytest

from fmsci.figures import comparison_figure, error_curves


@pytest.mark.parametrize("errors", [(0.27, 0.16, 0.037), (0.26, 0.25, 0.255), (0.9, 0.01, 1e-4)])
def test_an_axis_of_errors_has_readable_ticks_of_one_size(errors):
    figure = error_curves({"scratch": list(zip((16, 64, 256), errors, strict=True))}, "title", {"zero-shot": 0.1})
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
