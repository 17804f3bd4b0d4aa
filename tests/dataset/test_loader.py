"""Global batches cut for ranks and pieces: together they are always the same batch, and they resume anywhere."""

import numpy as np
import pytest
import torch

import fmsci.shards.reader
from fmsci.dataset.cache import HostCache
from fmsci.dataset.loader import Loader
from fmsci.dataset.samples import SampleSet
from fmsci.errors import UserError
from fmsci.shards import open_split
from tests.commands import run


def build(folder, rank=0, world_size=1, accumulate=1, batch_size=5, limit=None):
    samples = SampleSet(folder, "train", limit)
    return Loader(samples, batch_size, 3, rank, world_size, accumulate, torch.device("cpu"))


def real_parts(batch):
    """Return the sources that count in a batch."""
    return [piece.samples.source for piece in batch.pieces if piece.count]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_ranks_and_pieces_together_see_the_same_global_batches(poisson_data, world_size, accumulate):
    whole = [batch.pieces[0].samples.source for batch in build(poisson_data).epoch(0)]
    cut = [build(poisson_data, rank, world_size, accumulate).epoch(0) for rank in range(world_size)]
    for expected, parts in zip(whole, zip(*cut, strict=True), strict=True):
        assert torch.equal(torch.cat([field for part in parts for field in real_parts(part)]), expected)
        assert {part.global_count for part in parts} == {len(expected)}
        assert {len(part.pieces) for part in parts} == {accumulate}
        assert sum(piece.count for part in parts for piece in part.pieces) == len(expected)


def test_an_epoch_continues_at_any_batch(poisson_data):
    loader = build(poisson_data)
    whole = list(loader.epoch(1))
    for start in range(len(whole) + 1):
        rest = list(loader.epoch(1, start))
        assert len(rest) == len(whole) - start
        for a, b in zip(rest, whole[start:], strict=True):
            assert torch.equal(a.pieces[0].samples.source, b.pieces[0].samples.source)


def test_a_batch_holds_matching_fields_and_coefficients(poisson_data):
    reader = open_split(poisson_data, "train")
    fields, tensor, _ = reader.gather(np.arange(len(reader)))
    for batch in build(poisson_data).epoch(0):
        samples = batch.pieces[0].samples
        for source, coefficients, solution in zip(samples.source, samples.coefficients, samples.solution, strict=True):
            (number,) = np.flatnonzero((fields[:, 0] == source.numpy()).all(axis=(1, 2)))
            assert np.array_equal(fields[number, 1], solution.numpy())
            assert np.array_equal(tensor[number], coefficients.numpy())


def test_fewer_samples_than_the_batch_make_one_full_batch(poisson_data):
    loader = build(poisson_data, batch_size=128, limit=6)
    assert [batch.global_count for batch in loader.epoch(0)] == [6]


def test_subsets_are_nested(poisson_data):
    few, more = SampleSet(poisson_data, "train", 4), SampleSet(poisson_data, "train", 9)
    numbers = np.arange(4)
    assert torch.equal(few.gather(numbers).source, more.gather(numbers).source)


def test_asking_for_too_many_samples_is_a_sentence(poisson_data):
    with pytest.raises(UserError, match="has 13 train samples, 14 were asked for"):
        SampleSet(poisson_data, "train", 14)


def test_more_shards_than_stay_open_give_the_same_batches(poisson_data, tmp_path, monkeypatch):
    sizes = ["shard_samples=3", "grid=16", "train=13", "valid=1", "test=1", "system=poisson", "range=[1,5]"]
    run(["generate", *sizes, f"output={tmp_path / 'small'}"])
    monkeypatch.setattr(fmsci.shards.reader, "most_open", lambda: 2)
    small, whole = build(tmp_path / "small"), build(poisson_data)
    for epoch in range(2):
        for a, b in zip(small.epoch(epoch), whole.epoch(epoch), strict=True):
            assert torch.equal(a.pieces[0].samples.fields, b.pieces[0].samples.fields)
    assert len(small.samples._reader._shards) <= 2
    (tmp_path / "small" / "train" / "shard-00001.h5").unlink()
    with pytest.raises(UserError, match=r"shard-00001.h5 is missing; run: fmsci data check"):
        list(small.epoch(2))


def test_the_samples_of_a_subset_are_nested_and_others_for_each_number(poisson_data):
    def taken(limit, subset):
        samples = SampleSet(poisson_data, "train", limit, subset=subset)
        fields = samples.gather(np.arange(len(samples))).fields
        norms = samples.figure("source_norm")
        assert np.allclose(torch.linalg.vector_norm(fields[:, 0], dim=(1, 2)).numpy() / 16, norms, rtol=1e-5)
        return fields

    stored = taken(None, 0)
    assert torch.equal(taken(4, 0), stored[:4])
    assert torch.equal(taken(None, 3), stored)  # all of them: there is nothing to draw
    for subset in (1, 2):
        some = SampleSet(poisson_data, "train", 4, subset=subset)
        called = HostCache(some).numbers(np.arange(4))  # what a sentence about a batch names
        assert torch.equal(SampleSet(poisson_data, "train").gather(called).source, some.gather(np.arange(4)).source)
        assert torch.equal(taken(8, subset)[:4], taken(4, subset))
        assert not torch.equal(taken(4, subset), stored[:4])
    assert not torch.equal(taken(4, 1), taken(4, 2))
