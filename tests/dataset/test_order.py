"""The order of samples: pure functions, the same batches for any number of ranks."""

import tracemalloc

import numpy as np
import pytest

from fmsci.dataset.order import epoch_order, global_batch, mixture_order, num_batches, share, subset_order


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    first = epoch_order(0, 0, 1000)
    assert sorted(first) == list(range(1000))
    assert np.array_equal(first, epoch_order(0, 0, 1000))
    assert not np.array_equal(first, epoch_order(0, 1, 1000))
    assert not np.array_equal(first, epoch_order(1, 0, 1000))


def test_the_order_is_fixed_for_good():
    """A resumed run of an older installation must see the same samples: these numbers never change."""
    assert epoch_order(7, 3, 8).tolist() == [7, 1, 6, 0, 4, 2, 3, 5]
    assert subset_order(7, 8).tolist() == [2, 0, 3, 5, 6, 4, 7, 1]


def test_an_order_takes_the_memory_of_two():
    """Every rank makes it: a third array is 0.8 GB more of 10^8 samples."""
    count = 200_000
    tracemalloc.start()
    try:
        epoch_order(0, 0, count)
        assert tracemalloc.get_traced_memory()[1] < 2.5 * 8 * count
        tracemalloc.reset_peak()
        mixture_order(0, 0, (count, count), (count, count))
        assert tracemalloc.get_traced_memory()[1] < 3.2 * 8 * 2 * count
    finally:
        tracemalloc.stop()


def test_a_subset_is_another_draw_than_any_epoch():
    assert sorted(subset_order(1, 500)) == list(range(500))
    assert not np.array_equal(subset_order(1, 500), subset_order(2, 500))
    assert not any(np.array_equal(subset_order(seed, 500), epoch_order(seed, 0, 500)) for seed in range(1, 5))


def test_samples_are_spread_evenly_over_positions():
    position = np.stack([np.argsort(epoch_order(1, epoch, 50)) for epoch in range(400)])
    assert np.abs(position.mean(axis=0) - 24.5).max() < 4.5 * 14.43 / 20


@pytest.mark.parametrize(("count", "parts"), [(10, 1), (10, 3), (2, 3), (0, 4), (128, 7), (1, 1), (5, 5)])
def test_shares_cover_all_once_and_differ_by_at_most_one(count, parts):
    slices = [share(count, parts, part) for part in range(parts)]
    assert [i for s in slices for i in range(s.start, s.stop)] == list(range(count))
    sizes = [s.stop - s.start for s in slices]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("samples", "batch"), [(100, 32), (96, 32), (5, 8), (1, 1)])
def test_batches_of_an_epoch_hold_every_sample_once_and_keep_the_tail(samples, batch):
    order = epoch_order(0, 0, samples)
    batches = [global_batch(order, index, batch) for index in range(num_batches(samples, batch))]
    assert np.array_equal(np.concatenate(batches), order)
    assert all(len(b) == batch for b in batches[:-1])
    assert 0 < len(batches[-1]) <= batch
