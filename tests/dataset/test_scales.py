"""The scales of a mixture: medians of what the model sees."""

import numpy as np
import pytest

from fmsci.dataset.mixture import Mixture
from fmsci.dataset.samples import SampleSet
from fmsci.dataset.scales import mixture_scales, weighted_median
from fmsci.errors import UserError
from fmsci.pde import NAMES

SIX = tuple(NAMES)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 1001])
def test_with_equal_weights_it_is_the_median(count):
    values = np.random.default_rng(count).normal(size=count)
    for weight in (1.0, 0.1, 1 / 3):
        assert weighted_median(values, np.full(count, weight)) == np.median(values)


def test_a_weight_counts_like_so_many_copies():
    numbers = np.random.default_rng(1)
    for _ in range(200):
        values, copies = numbers.integers(0, 50, 9) / 7, numbers.integers(1, 5, 9)
        assert weighted_median(values, copies / 3) == np.median(np.repeat(values, copies))


def test_a_mixture_of_one_folder_has_the_scales_of_its_manifest(three_systems):
    for folder in three_systems.values():
        one = SampleSet(folder, "train", None, SIX)
        found, expected = mixture_scales(Mixture([one], [1])), one.manifest.scales
        assert found.source == expected.source
        twice = {"k22": expected.coefficients["k11"]} if one.manifest.system == "helmholtz" else {}
        assert found.coefficients == dict.fromkeys(SIX, 1.0) | expected.coefficients | twice


@pytest.mark.parametrize(("sizes", "weights", "visits"), [((8, 8), (3, 1), (3, 1)), ((8, 4), (1, 2), (1, 4))])
def test_samples_count_as_often_as_they_are_seen(three_systems, sizes, weights, visits):
    """Weights 3 : 1 on 8 and 8 samples: two epochs show each of the first three times, each of the second once.

    Weights 1 : 2 on 8 and 4: the first has 4 of an epoch's 12 positions, the second 8; two epochs show it four times.
    """
    sets = [
        SampleSet(three_systems[name], "train", size, SIX)
        for name, size in zip(("poisson", "helmholtz"), sizes, strict=True)
    ]
    found = mixture_scales(Mixture(sets, weights))

    def median(of):
        return np.median(np.concatenate([np.repeat(values, times) for values, times in zip(of, visits, strict=True)]))

    assert found.source == median([one.figure("source_norm") for one in sets])
    assert found.coefficients["k11"] == median([np.abs(one.figure("tensor")[:, 0]).astype(float) for one in sets])
    assert found.coefficients["w"] == np.median(sets[1].figure("tensor")[:, 1])  # zeros of the other do not count
    assert found.coefficients["v1"] == 1.0


def test_only_the_samples_that_are_trained_on_count(three_systems):
    few = SampleSet(three_systems["poisson"], "train", 3, SIX)
    assert mixture_scales(Mixture([few], [1])).source == np.median(few.figure("source_norm")[:3])
    assert len(few.figure("source_norm")) == 3


def test_sources_that_are_zero_give_no_scale(three_systems, monkeypatch):
    few = SampleSet(three_systems["poisson"], "train", 4, SIX)
    figures = few.figure
    norms = np.array([0.0, 0.0, 0.0, 1.0])
    monkeypatch.setattr(few, "figure", lambda name: norms if name == "source_norm" else figures(name))
    with pytest.raises(UserError, match="have a source that is zero everywhere: they give no scale; leave them out"):
        mixture_scales(Mixture([few], [1]))
