"""Reading ahead: bounded, in one thread that always ends, whose errors arrive as themselves."""

import shutil
import threading
import time

import pytest
import torch

from fmsci.dataset.loader import Loader
from fmsci.dataset.prefetch import Ahead
from fmsci.dataset.samples import SampleSet
from fmsci.errors import UserError


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "fmsci-prefetch"]


@pytest.fixture(autouse=True)
def _no_thread_stays():
    yield
    assert threads() == []


def build(folder, prefetch=2, epochs=0, batch_size=2):
    return Loader(SampleSet(folder, "train"), batch_size, 3, 0, 1, 1, torch.device("cpu"), prefetch, epochs)


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_items_arrive_in_order_and_the_thread_ends():
    assert list(Ahead(iter(range(1000)), 3)) == list(range(1000))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_no_more_than_depth_items_wait_beside_the_one_in_hand(depth):
    made = []
    ahead = Ahead((made.append(i) or i for i in range(100)), depth)
    until(lambda: len(made) == depth + 1)
    time.sleep(0.05)
    assert len(made) == depth + 1
    assert next(ahead) == 0
    until(lambda: len(made) == depth + 2)
    ahead.close()
    with pytest.raises(StopIteration):
        next(ahead)


def test_an_error_arrives_as_itself_after_what_was_made_before_it():
    error = UserError("the disk is gone")

    def items():
        yield 1
        raise error

    ahead = Ahead(items(), 4)
    assert next(ahead) == 1
    with pytest.raises(UserError) as caught:
        next(ahead)
    assert caught.value is error
    assert "items" in [entry.name for entry in caught.traceback]  # where in the thread it happened


def test_an_epoch_that_is_left_early_leaves_no_thread(poisson_data):
    loader = build(poisson_data, epochs=5)
    for _ in loader.epoch(0):
        assert len(threads()) == 1
        break
    until(lambda: not threads())


def test_an_error_of_the_consumer_leaves_no_thread(poisson_data):
    def consume(loader):
        for _ in loader.epoch(0):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        consume(build(poisson_data, epochs=5))
    assert threads() == []


def test_the_thread_reads_across_epochs_and_ends_with_the_last(poisson_data):
    loader = build(poisson_data, epochs=3, batch_size=128)
    seen = []
    for epoch in range(3):
        for batch in loader.epoch(epoch):
            seen.append(batch)
            until(lambda done=epoch: loader._source._ready.qsize() > 0)  # the next epoch's, or the end
    assert threads() == []
    plain = [batch for epoch in range(3) for batch in build(poisson_data, 0, batch_size=128).epoch(epoch)]
    for a, b in zip(seen, plain, strict=True):
        assert torch.equal(a.pieces[0].samples.fields, b.pieces[0].samples.fields)


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_any_position_in_any_order_gives_the_same_batch(poisson_data, prefetch):
    whole = [list(build(poisson_data, 0).epoch(epoch)) for epoch in range(3)]
    loader = build(poisson_data, prefetch, epochs=3)
    for epoch, start in ((1, 3), (0, 0), (2, 6), (1, 0), (1, 5), (2, 7), (2, 0)):
        for batch, expected in zip(loader.epoch(epoch, start), whole[epoch][start:], strict=True):
            assert torch.equal(batch.pieces[0].samples.fields, expected.pieces[0].samples.fields)
    loader.close()


def test_batches_stay_what_they_were_while_later_ones_are_read(poisson_data):
    kept = [
        (batch.pieces[0].samples.fields, batch.pieces[0].samples.fields.clone())
        for batch in build(poisson_data).epoch(0)
    ]
    assert all(torch.equal(fields, copy) for fields, copy in kept)


def test_a_shard_that_vanishes_is_a_sentence_from_the_thread(poisson_data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(poisson_data, folder)
    loader = build(folder)
    (folder / "train" / "shard-00000.h5").unlink()
    with pytest.raises(UserError, match=r"shard-00000.h5 is missing; run: fmsci data check"):
        next(iter(loader.epoch(0)))


def test_the_loader_says_how_long_it_was_waited_for(poisson_data):
    loader = build(poisson_data)
    assert loader.wait_s == 0
    begun = time.perf_counter()
    list(loader.epoch(0))
    assert 0 < loader.wait_s < time.perf_counter() - begun
