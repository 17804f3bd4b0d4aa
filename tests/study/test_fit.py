"""The fit recovers what is known: a power law, a crossing, a gain; and it says where it knows nothing."""

import math
from itertools import product
from statistics import median

import numpy as np
import pytest

from fmsci.study.collect import still_falling
from fmsci.study.fit import at_once, draws, gain, is_bound, power_law, reach, samples_to_reach
from fmsci.study.found import Curve, Point

SAMPLES = (16, 64, 256, 1024, 4096)


def curve(a, b, noise=0.0, seeds=3, samples=SAMPLES):
    random = np.random.default_rng(1)
    points = [
        Point(n, tuple(range(seeds)), tuple(a * n**-b * np.exp(noise * random.normal(size=seeds))), seeds)
        for n in samples
    ]
    return Curve("task", "arm", "model", tuple(points))


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.3), (2.0, 0.75), (0.1, 0.0)])
def test_a_power_law_is_recovered_and_crossed_where_it_is(a, b):
    found = power_law(curve(a, b).medians)
    assert (found.a, found.b) == pytest.approx((a, b))
    assert found.error(100) == pytest.approx(a * 100**-b)
    if b:
        error = a * 500.0**-b  # between two of the points, on a line in logarithms
        assert samples_to_reach(curve(a, b).medians, error) == pytest.approx(500)
        assert reach(curve(a, b), error).low == pytest.approx(500)


def test_noise_widens_the_interval_around_the_truth():
    found = reach(curve(1.0, 0.5, noise=0.05, seeds=5), 500.0**-0.5)
    assert found.low < 500 < found.high
    assert found.low <= found.value <= found.high
    assert found.high / found.low < 3


def test_nothing_is_extrapolated():
    points = curve(1.0, 0.5).medians
    assert samples_to_reach(points, 0.9) == 16  # there from the first number on: an upper bound
    assert samples_to_reach(points, 1e-3) == math.inf
    assert samples_to_reach(points, points[-1][1]) == pytest.approx(4096)  # to the last one, itself included
    assert power_law(points[:1]) is None
    assert power_law([(16, 0.2), (16, 0.3)]) is None
    assert power_law(points[:2]).b == pytest.approx(0.5)  # two numbers of samples make a line


def test_the_gain_of_a_curve_that_needs_a_fixed_share_of_the_samples():
    tuned, scratch = curve(0.25, 0.5), curve(1.0, 0.5)  # 16 times fewer samples at the same error
    found = gain(tuned, scratch, scratch.points[3].median)
    assert (found.value, found.low, found.high) == pytest.approx((16, 16, 16))
    assert gain(tuned, scratch, 1e-9) is None
    assert gain(tuned, scratch, 0.5) is None  # from scratch it is there with the first number: nothing is known
    assert not at_once(tuned, scratch.points[3].median)
    assert at_once(tuned, scratch.points[1].median)  # a lower bound then
    assert is_bound(tuned, scratch, scratch.points[1].median)
    assert at_once(tuned, tuned.points[0].median)  # exactly there is there
    assert gain(tuned, scratch, scratch.points[1].median).value == pytest.approx(4)
    assert gain(tuned, scratch, scratch.points[-1].median / 1.5).value == pytest.approx(4096 / 576)  # scratch never is
    assert is_bound(tuned, scratch, scratch.points[-1].median / 1.5)
    never = gain(tuned, scratch, scratch.points[-1].median / 1.5)
    assert never.low == pytest.approx(never.value)  # as many samples from scratch as there are, in every draw
    assert math.isinf(never.high)
    empty = Curve("task", "arm", "model", tuple(Point(n, (), (), 3) for n in SAMPLES))
    assert empty.medians == []
    assert gain(empty, scratch, 0.1) is None
    assert gain(tuned, empty, 0.1) is None


def test_draws_in_which_scratch_never_gets_there_leave_the_gain_open():
    """The last point of the curve from scratch lies on both sides of the error: the gain may be any larger."""
    tuned = curve(0.25, 0.5)
    scratch = Curve(
        "task",
        "arm",
        "model",
        (Point(256, (0, 1, 2), (0.3, 0.3, 0.3), 3), Point(1024, (0, 1, 2), (0.09, 0.1, 0.11), 3)),
    )
    found = gain(tuned, scratch, 0.1)
    assert found.value == pytest.approx(1024 / 6.25, rel=0.7)
    assert math.isinf(found.high)
    assert found.low <= found.value
    assert gain(curve(1.0, 0.5, samples=(16, 64)), tuned, 0.05) is None  # fine-tuned it never gets there


def points(*errors):
    """Return a curve from samples and the errors of three seeds."""
    return Curve("t", "arm", "m", tuple(Point(samples, (0, 1, 2), tuple(of), 3) for samples, *of in errors))


@pytest.mark.parametrize("least", [0.9, 1.0])
def test_draws_that_bound_the_gain_on_one_side_leave_that_side_open(least):
    """A quarter of the draws are at the error 1 with their first number of samples, in one arm or the other."""
    some, late = (8, least, 1.1, 1.2), points((8, 3, 3, 3), (64, 0.8, 0.8, 0.8))
    tuned = points(some, (16, 0.5, 0.5, 0.5))
    found = gain(tuned, late, 1.0)
    exact = [
        samples_to_reach(scratch, 1.0) / samples_to_reach(one, 1.0)
        for one, scratch in zip(*draws((tuned, late)), strict=True)
        if one[0][1] > 1
    ]
    assert min(exact) <= found.low <= found.value <= max(exact)
    assert math.isinf(found.high)  # of the draws at once only the least gain is known
    found = gain(points((4, 3, 3, 3), (8, 0.5, 0.5, 0.5)), points(some, (64, 0.5, 0.5, 0.5)), 1.0)
    assert found.low == 0  # of the draws whose scratch curve is at once only the largest is
    assert found.value <= found.high < math.inf


def test_draws_at_once_leave_open_how_few_samples_do():
    """A quarter of the draws are at the error 1 with 8 samples; of them only an upper bound is known."""
    some = points((8, 0.9, 1.1, 1.2), (16, 0.5, 0.5, 0.5))
    found = reach(some, 1.0)
    assert found.low == 0
    assert found.high == pytest.approx(samples_to_reach([(8, 1.2), (16, 0.5)], 1.0))
    assert reach(some, 0.8).low == pytest.approx(samples_to_reach([(8, 0.9), (16, 0.5)], 0.8))  # at once in no draw
    wholly = reach(points((8, 0.8, 0.9, 1.1), (16, 0.5, 0.5, 0.5)), 1.0)  # the median curve is, and most draws are
    assert (wholly.value, wholly.low) == (8, 0)
    assert wholly.high == pytest.approx(samples_to_reach([(8, 1.1), (16, 0.5)], 1.0))


def test_of_a_draw_in_which_the_fine_tuned_arm_never_gets_there_the_largest_gain_is_known():
    """Its seed needs many samples from scratch, too: less than that over the largest number that was tried."""
    tuned, scratch = points((8, 3, 3, 3), (16, 0.9, 0.9, 1.1)), points((8, 9, 9, 9), (64, 0.1, 0.1, 0.9))
    found = gain(tuned, scratch, 1.0)
    assert found.low == 0
    assert found.high == pytest.approx(samples_to_reach([(8, 9), (64, 0.9)], 1.0) / 16)


def test_a_draw_in_which_neither_arm_gets_there_is_left_out():
    """A quarter of the draws, of a seed that stays above the error in both arms, say nothing of the gain."""
    tuned, scratch = points((8, 3, 3, 3), (16, 0.5, 0.5, 2)), points((8, 3, 3, 3), (64, 0.5, 0.5, 2))
    found = gain(tuned, scratch, 0.5)
    assert (found.value, found.low, found.high) == pytest.approx((4, 4, 4))


def test_an_interval_leaves_out_a_twentieth_of_the_draws_on_either_side():
    noisy = curve(1.0, 0.5, noise=0.3, seeds=20)
    drawn = [samples_to_reach(points, 0.1) for points in draws((noisy,))[0]]
    found = reach(noisy, 0.1)
    assert len(drawn) == 400
    assert sum(one < found.low for one in drawn) < 20 <= sum(one <= found.low for one in drawn)
    assert sum(one > found.high for one in drawn) <= 20 < sum(one >= found.high for one in drawn)


def test_a_seed_is_drawn_with_all_of_its_errors_in_both_arms():
    """Every seed gains as much: then so does every draw, however far the seeds lie from each other."""
    seeds = np.array([0.8, 1.0, 1.5])
    tuned, scratch = (
        Curve("t", "arm", "m", tuple(Point(n, (5, 6, 7), tuple(factor * seeds * n**-0.5), 3) for n in SAMPLES))
        for factor in (0.25, 1.0)
    )
    found = gain(tuned, scratch, 0.045)
    assert (found.value, found.low, found.high) == pytest.approx((16, 16, 16))
    alone = reach(tuned, 0.045)
    assert alone.low < 0.7 * alone.value
    assert alone.high > 2 * alone.value


def test_a_point_that_lacks_a_seed_takes_the_others_of_each_draw():
    """Held against every draw of three seeds: the two medians of a draw are of the same seeds."""
    whole, part = {5: 1.0, 6: 0.1, 7: 0.5}, {5: 0.09, 7: 0.03}  # at 16 and at 64 samples
    mine = Curve("t", "arm", "m", tuple(Point(n, (*at,), (*at.values(),), 3) for n, at in ((16, whole), (64, part))))
    possible = set()
    for seeds in product(whole, repeat=3):
        there = [part[seed] for seed in seeds if seed in part] or list(part.values())
        possible.add(((16, median(whole[seed] for seed in seeds)), (64, median(there))))
    drawn = {tuple(points) for (points,) in zip(*draws((mine,)), strict=True)}
    assert drawn == possible
    assert ((16, 1.0), (64, 0.03)) not in possible


@pytest.mark.parametrize(
    ("errors", "falling"),
    [
        ([1.0, 0.5, 0.4, 0.3, 0.2, 0.1], True),
        ([1.0, 0.5, 0.2, 0.101, 0.1005, 0.1], False),  # by less than 2% over the last fifth
        ([1.0, 0.5, 0.2, 0.1, 0.3, 0.2], False),  # the best came earlier
        ([1.0, 0.5, 0.2, 0.15, 0.1025, 0.1], True),  # by more than 2%
        ([1.0, 0.5, 0.2, 0.15, 0.1015, 0.1], False),
        ([], False),
    ],
)
def test_a_run_that_had_not_settled_is_marked(errors, falling):
    steps = [0, 20, 40, 60, 80, 100]
    assert still_falling(list(zip(steps, errors, strict=False)), 100) is falling


@pytest.mark.parametrize(("step", "falling"), [(95, False), (96, True)])
def test_only_a_best_of_the_last_twentieth_marks_a_run(step, falling):
    assert still_falling([(0, 1.0), (50, 0.5), (step, 0.1), (100, 0.2)], 100) is falling
