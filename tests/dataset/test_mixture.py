"""Mixtures as samples: shares, repetition, nesting, columns, ranks. No training here."""

import numpy as np
import pytest
import torch

from fmsci.dataset.loader import Loader
from fmsci.dataset.mixture import Mixture
from fmsci.dataset.order import apportion, epoch_order, mixture_order
from fmsci.dataset.samples import SampleSet
from fmsci.errors import UserError
from fmsci.pde import NAMES, SYSTEMS
from fmsci.shards import open_split
from tests.commands import run


def build(folders, weights=(2, 1, 1), limits=(None, None, None)):
    sets = [SampleSet(folder, "train", limit, tuple(NAMES)) for folder, limit in zip(folders, limits, strict=True)]
    return Mixture(sets, weights)


# ------------------------------------------------------------------ shares of an epoch


@pytest.mark.parametrize(
    ("weights", "total", "counts"),
    [
        ([1, 1, 1], 99, (33, 33, 33)),
        ([1, 1, 1], 100, (34, 33, 33)),
        ([2, 1, 1], 31, (15, 8, 8)),
        ([0.1, 0.2, 0.7], 10, (1, 2, 7)),
        ([0.1] * 10, 10, (1,) * 10),
        ([1e-9, 1], 10, (0, 10)),
        ([3], 7, (7,)),
        ([1e300, 1e300], 6, (3, 3)),
    ],
)
def test_weights_are_shares_of_an_epoch(weights, total, counts):
    assert apportion(weights, total) == counts


def test_a_share_is_exact_to_less_than_one_sample():
    numbers = np.random.default_rng(0)
    for _ in range(300):
        weights = numbers.uniform(0.01, 5, numbers.integers(1, 6))
        total = int(numbers.integers(1, 5000))
        counts = apportion(weights.tolist(), total)
        assert sum(counts) == total
        assert np.abs(np.array(counts) - total * weights / weights.sum()).max() < 1


# ------------------------------------------------------------------ order


def test_every_epoch_has_the_same_shares_and_another_order():
    first = mixture_order(0, 0, (13, 10, 8), (16, 8, 7))
    second = mixture_order(0, 1, (13, 10, 8), (16, 8, 7))
    for order in (first, second):
        assert [int(((order >= low) & (order < high)).sum()) for low, high in ((0, 13), (13, 23), (23, 31))] == [
            16,
            8,
            7,
        ]
    assert not np.array_equal(first, second)
    assert np.array_equal(first, mixture_order(0, 0, (13, 10, 8), (16, 8, 7)))
    assert not np.array_equal(first, mixture_order(1, 0, (13, 10, 8), (16, 8, 7)))


@pytest.mark.parametrize(
    ("sizes", "drawn"), [((13, 10, 8), (16, 8, 7)), ((3, 40), (22, 21)), ((5,), (5,)), ((1, 6), (6, 1))]
)
def test_no_sample_comes_again_before_all_of_its_folder_have_come(sizes, drawn):
    visits = np.concatenate([mixture_order(4, epoch, sizes, drawn) for epoch in range(25)])
    first = 0
    for size in sizes:
        mine = visits[(visits >= first) & (visits < first + size)] - first
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            assert len(set(part.tolist())) == len(part)
        first += size


def test_folders_are_spread_over_the_whole_epoch():
    owners = np.stack([mixture_order(2, epoch, (40, 40), (60, 20)) < 40 for epoch in range(400)])
    assert np.abs(owners.mean(axis=0) - 0.75).max() < 4.5 * np.sqrt(0.75 * 0.25 / 400)


def test_a_mixture_of_one_folder_has_the_order_of_that_folder():
    for epoch in range(4):
        assert np.array_equal(mixture_order(3, epoch, (50,), (50,)), epoch_order(3, epoch, 50))


def test_the_order_of_a_mixture_is_fixed_for_good():
    assert mixture_order(7, 3, (4, 3), (2, 5)).tolist() == [5, 4, 6, 5, 2, 0, 4]


# ------------------------------------------------------------------ samples


def test_a_mixture_gives_each_folders_samples_with_six_columns(three_systems):
    mixture = build(three_systems.values())
    assert (len(mixture), mixture.sizes, mixture.drawn) == (31, (13, 10, 8), (15, 8, 8))
    numbers = mixture.order(0, 0)
    samples = mixture.gather(numbers)
    first = 0
    for system, folder in three_systems.items():
        reader = open_split(folder, "train")
        here = (numbers >= first) & (numbers < first + len(reader))
        fields, tensor, _ = reader.gather(numbers[here] - first)
        assert np.array_equal(samples.fields.numpy()[here], fields)
        expected = (tensor @ SYSTEMS[system].expansion).astype(np.float32)
        assert np.array_equal(samples.coefficients.numpy()[here], expected)
        first += len(reader)
    absent = {"poisson": [3, 4, 5], "advection_diffusion": [5], "helmholtz": [2, 3, 4]}
    assert [NAMES[i] for i in absent["helmholtz"]] == ["k12", "v1", "v2"]
    for (low, high), columns in zip(((0, 13), (13, 23), (23, 31)), absent.values(), strict=True):
        rows = samples.coefficients.numpy()[(numbers >= low) & (numbers < high)]
        assert not rows[:, columns].any()
        assert rows[:, 0].all()


def test_smaller_training_sets_are_part_of_larger_ones(three_systems):
    small, large = build(three_systems.values(), limits=(4, 2, 8)), build(three_systems.values(), limits=(9, 10, None))
    assert (small.sizes, large.sizes) == ((4, 2, 8), (9, 10, 8))
    few, many = small.gather(np.arange(14)), large.gather(np.array([0, 1, 2, 3, 9, 10, *range(19, 27)]))
    assert torch.equal(few.fields, many.fields)
    assert torch.equal(few.coefficients, many.coefficients)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_together_see_the_same_global_batches(three_systems, world_size):
    def loader(rank, size):
        return Loader(build(three_systems.values()), 6, 5, rank, size, 1, torch.device("cpu"))

    whole = [batch.pieces[0].samples for batch in loader(0, 1).epoch(1)]
    cut = [loader(rank, world_size).epoch(1, start=2) for rank in range(world_size)]
    for expected, parts in zip(whole[2:], zip(*cut, strict=True), strict=True):
        mine = [piece.samples for part in parts for piece in part.pieces if piece.count]
        assert torch.equal(torch.cat([samples.fields for samples in mine]), expected.fields)
        assert torch.equal(torch.cat([samples.coefficients for samples in mine]), expected.coefficients)


# ------------------------------------------------------------------ mistakes


def test_folders_of_two_grids_are_refused(three_systems, tmp_path):
    other = tmp_path / "other"
    sizes = ["--grid", 24, "--train", 2, "--valid", 1, "--test", 1]
    run(["generate", "--system", "poisson", "--range", 1, 5, *sizes, "--output", other])
    with pytest.raises(UserError, match=r"must have one grid, but \S+poisson has 16 x 16 and \S+other has 24 x 24"):
        build([three_systems["poisson"], other], (1, 1), (None, None))


def test_a_weight_that_is_too_small_for_one_sample_is_refused(three_systems):
    sentence = r"the weight 0.001 of \S+helmholtz gives it no sample of an epoch of 31"
    with pytest.raises(UserError, match=sentence):
        build(three_systems.values(), (1, 1, 0.001))


def test_folders_with_other_coefficients_are_refused(three_systems):
    sets = [SampleSet(folder, "train") for folder in three_systems.values()]
    with pytest.raises(UserError, match="must have the same coefficients"):
        Mixture(sets, (1, 1, 1))
