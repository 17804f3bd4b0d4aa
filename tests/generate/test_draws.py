"""A sample's random numbers belong to the sample."""

import numpy as np
import pytest

from fmsci.generate.draws import NUMBERS_PER_SAMPLE, Stream, draw_uniforms

STREAM = Stream(7, "poisson", (1.0, 5.0), "train")


def test_any_way_of_asking_gives_the_same_numbers():
    together = draw_uniforms(STREAM, 0, range(40))
    assert together.shape == (40, NUMBERS_PER_SAMPLE)
    for samples in ([0], [39], [3, 4, 5], [1, 5, 6, 30], []):
        assert np.array_equal(draw_uniforms(STREAM, 0, samples), together[samples])
    far = 2**40 + 3  # the hundredth terabyte begins as quickly as the first
    assert np.array_equal(draw_uniforms(STREAM, 0, [far, far + 1])[1:], draw_uniforms(STREAM, 0, [far + 1]))


def test_numbers_are_recorded():
    """Bits that must never change: data made by an earlier version must be made again by a later one."""
    first = draw_uniforms(STREAM, 0, [0, 11])
    assert first[:, 0].tolist() == RECORDED


@pytest.mark.parametrize(
    "other",
    [
        Stream(8, "poisson", (1.0, 5.0), "train"),
        Stream(7, "helmholtz", (1.0, 5.0), "train"),
        Stream(7, "poisson", (1.0, 5.5), "train"),
        Stream(7, "poisson", (1.0, 5.0), "valid"),
    ],
)
def test_streams_share_nothing(other):
    assert np.intersect1d(draw_uniforms(STREAM, 0, range(20)), draw_uniforms(other, 0, range(20))).size == 0
    assert np.intersect1d(draw_uniforms(STREAM, 0, range(20)), draw_uniforms(STREAM, 1, range(20))).size == 0


def test_numbers_are_uniform_and_independent():
    numbers = draw_uniforms(STREAM, 0, range(500))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.abs(np.bincount((numbers.ravel() * 16).astype(int)) / numbers.size - 1 / 16).max() < 0.003
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.01


RECORDED = [0.2965401844985892, 0.7581541165559151]
