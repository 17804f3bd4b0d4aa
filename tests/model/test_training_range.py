"""What counts as outside of the training range."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fmsci.model.training_range import TrainingRange

RANGE = TrainingRange(("poisson",), 16, (0.5, 2.0), {"a": (0.01, 0.05), "b": (-1.0, 0.0)})


def outside(norm, *row):
    return RANGE.outside(np.array([float(norm)]), np.array([row], float))


def test_the_ends_belong_to_it_as_float32_stores_them():
    assert outside(2, 0.05, -1) is None
    assert outside(2, float(np.float32(0.05)), 0) is None
    assert outside(0.5, 0.01, 0) is None
    assert outside(2, 0.01 * (1 - 1e-2), 0) == "a = 0.0099 (trained on 0.01 to 0.05)"
    assert outside(1, 0.02, 1e-4) == "b = 0.0001 (trained on -1 to 0)"


def test_what_is_outside_is_told_of_the_first_sample_that_is():
    said = RANGE.outside(np.ones(3), np.array([[0.02, 0], [0.5, -9], [0.9, 0]]))
    assert said == "a = 0.5 (trained on 0.01 to 0.05), b = -9 (trained on -1 to 0)"


def test_a_sample_is_inside_where_some_scaling_takes_all_of_it_there():
    assert outside(20, 0.3, -5) is None  # as 2 with 0.03, -0.5
    assert outside(0.05, 0.002, 0) is None  # as 0.5 with 0.02
    assert outside(1, 0.1, 0) is None  # as 0.5 with 0.05
    assert outside(1, 0.1, -3) is not None  # b then needs a third, and a source as weak as that there was none
    assert outside(20, 0.03, 0) == (
        "a = 0.03, which counts as 0.003 with a source of this strength (trained on 0.01 to 0.05)"
    )
    assert outside(0, 0.03, 0) is None  # no source, no strength
    assert RANGE.outside(np.ones(0), np.ones((0, 2))) is None


@given(*[st.floats(1e-3, 1e3)] * 3, st.floats(-1e3, 1e3))
def test_scaling_a_problem_changes_nothing_and_brute_force_agrees(factor, norm, a, b):
    told = outside(norm, a, b)
    assert (told is None) == (outside(factor * norm, factor * a, factor * b) is None) or near_an_end(norm, a, b)
    t = np.geomspace(0.5 / norm, 2.0 / norm, 4001)
    found = bool(np.any((t * a >= 0.01) & (t * a <= 0.05) & (t * b >= -1) & (t * b <= 0)))
    assert (told is None) == found or near_an_end(norm, a, b)


def near_an_end(norm, a, b):
    """Whether rounding, or the spacing of brute force, may decide."""
    widths = []
    for slack in (1e-2, -1e-2):
        low, high = 0.5 * (1 - slack) / norm, 2.0 * (1 + slack) / norm
        low, high = max(low, 0.01 * (1 - slack) / a), min(high, 0.05 * (1 + slack) / a)
        high = min(high, (1 + slack) / -b) if b < 0 else high
        widths.append(high >= low and b <= slack * 1e-3)
    return widths[0] != widths[1] or 0 < b * 2.0 / norm < 1e-4


def test_the_mean_stays_where_a_system_keeps_it_or_is_not_known():
    systems = {("poisson",): False, ("poisson", "advection_diffusion"): False, ("helmholtz",): True, ("other",): True}
    for names, keeps in systems.items():
        assert TrainingRange(names, 16, (1, 1), {}).keeps_mean == keeps
