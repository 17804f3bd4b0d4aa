"""The cost model's arithmetic, by hand."""

from dataclasses import replace

import pytest

from fmsci.engine.buckets import portions
from fmsci.engine.traffic import sent_bytes
from fmsci.scaling.cost import Compute, CostModel, Link, hidden
from tests.scaling.made import ENGINES, MODEL, point

APART = CostModel(
    {("1M", "fp32"): Compute(0.0, 0.0, 1e-3, 0.0)}, inside=Link(0.0, 1e-9), between=Link(0.0, 1e-8), on_gpu=True
)


def test_portions_wait_for_the_backward_pass_and_for_each_other():
    ready, seconds = [0.25, 0.5, 1.0], [2.0, 1.0, 3.0]
    assert hidden(ready, seconds, 8.0, overlap=1.0) == pytest.approx(3.0)  # only the last is left: 8 + 3 - 8
    assert hidden(ready, seconds, 8.0, overlap=0.0) == pytest.approx(6.0)
    assert hidden(ready, [8.0, 1.0, 3.0], 8.0, overlap=1.0) == pytest.approx(6.0)  # 2 + 8 + 1 + 3 - 8
    assert hidden([1.0], [3.0], 8.0, overlap=1.0) == pytest.approx(3.0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_without_latency_and_overlap_the_exchange_is_the_bytes_of_the_closed_form(engine, ranks):
    one = point(ranks, 2 * ranks, engine)
    sent = sent_bytes(one.how, one.shape.num_parameters, ranks)
    assert APART.exchange_s(one, 1, 1.0) == pytest.approx(1e-9 * sent, rel=1e-3)
    assert APART.exchange_s(one, ranks, 1.0) == pytest.approx(1e-8 * sent, rel=1e-3)


def test_a_node_of_several_ranks_sends_over_its_link_once():
    """In a ring over 2 nodes of 4, the link of a node carries what one rank sends."""
    one = point(8, 16)
    sent = sent_bytes(one.how, one.shape.num_parameters, 8)
    assert APART.exchange_s(one, 2, 1.0) == pytest.approx(1e-8 * sent, rel=1e-3)


def test_a_ring_waits_for_every_rank_and_a_tree_for_its_height():
    slow = replace(APART, between=Link(1e-3, 0.0), inside=Link(0.0, 0.0))
    one = point(64, 128)  # two portions, two rounds
    assert slow.exchange_s(one, 64, 1.0) == pytest.approx(2 * 2 * 63e-3)
    assert replace(slow, rounds="tree").exchange_s(one, 64, 1.0) == pytest.approx(2 * 2 * 6e-3)


def test_after_a_replay_all_goes_at_once_and_nothing_beside_it():
    """Short steps of several GPUs are replayed; long ones, and those of ZeRO, are not."""
    plain, replayed = Compute(5e-3, 0.0, 1e-3, 0.0), Compute(0.0, 0.0, 1e-3, 0.0)
    links = {"inside": Link(1e-5, 0.0, overlap=1.0), "between": Link(1e-3, 1e-8, overlap=1.0)}
    both = CostModel({("1M", "fp32"): plain, ("1M", "fp32", "replayed"): replayed}, **links, on_gpu=True)
    short, ranks = point(4, 8), 4
    sent = sent_bytes(short.how, short.shape.num_parameters, ranks)
    found = both.estimate(short, ranks)
    assert found.compute_s == pytest.approx(2e-3)
    assert found.exchange_s == pytest.approx(1e-8 * sent + 2 * 3e-3)  # one message each round, whatever the overlap
    halved = replace(short, how=ENGINES["ddp_bf16"])
    assert both.estimate(halved, ranks).exchange_s == pytest.approx(1e-8 * sent / 2 + 2 * 3e-3)
    for one in (replace(short, batch=4 * 1024), point(4, 8, "zero1")):
        assert both.estimate(one, ranks) == replace(both, compute={("1M", "fp32"): plain}).estimate(one, ranks)
    old = replace(both, compute={("1M", "fp32"): plain})  # measured before several ranks replayed
    assert old.estimate(short, ranks).compute_s == 5e-3
    assert old.estimate(short, ranks).exchange_s == old.exchange_s(short, ranks, 2 / 3 * 5e-3)
    only = replace(both, compute={("1M", "fp32", "replayed"): replayed})
    assert only.estimate(replace(short, batch=4 * 1024), ranks).compute_s == pytest.approx(1.024)


def test_a_known_limit_adds_its_bytes():
    link = Link(0.0, 1e-9, limited=1.05)
    assert link.per_byte(80.0) == pytest.approx(1e-9 + 1.05 / 10e6)
    assert link.per_byte(None) == 1e-9


def test_a_step_has_a_fixed_part_for_each_piece_and_a_floor():
    compute = Compute(floor_s=5e-3, fixed_s=1e-3, sample_s=1e-4, update_s=0.0)
    assert compute.seconds(8) == 5e-3
    assert compute.seconds(100) == pytest.approx(11e-3)
    assert compute.seconds(400, 4) == pytest.approx(4 * 11e-3)
    assert compute.seconds(100, 4) == pytest.approx(4 * 5e-3)  # 25 samples each are below the floor


def test_computing_is_crowded_and_cut():
    one = point(4, 16, "zero1")
    slow = replace(MODEL, zero=(1e-3, 1e-9))
    found = slow.estimate(one, 4)
    own = 1e-3 + 1e-9 * one.shape.num_parameters
    assert found.compute_s == pytest.approx(2.1 * (4e-3 + 4 * 3e-3 + 8e-4 / 4 + own))
    assert found.step_s == found.compute_s + found.exchange_s
    assert slow.estimate(point(4, 16), 4).compute_s == pytest.approx(2.1 * (4e-3 + 4 * 3e-3 + 8e-4))  # no DeepSpeed
    assert MODEL.crowding(100) == 2.1
    assert MODEL.crowding(1) == 1.0


def test_pieces_of_stages_2_and_3_exchange_again():
    # stage 2 reduces each piece, two rounds, and gathers the weights once: (4 * 2 + 1) / (2 + 1)
    for engine, times in (("ddp", 1), ("zero1", 1), ("zero2", 3), ("zero3", 4)):
        one = point(2, 16, engine)
        more = replace(one, how=one.how.model_copy(update={"accumulate": 4}))
        assert APART.exchange_s(more, 2, 1.0) == pytest.approx(times * APART.exchange_s(one, 2, 1.0), rel=1e-3)


def test_exchanging_goes_on_beside_the_last_backward_pass_two_thirds_of_computing():
    """The first portion is ready early: of both, so slow that they end later, that much is hidden."""
    link = Link(latency_s=1.0, byte_s=0.0, overlap=1.0)
    one = point(2, 16)
    (_, early), (_, late) = portions(one.how, one.shape)
    assert early < late == 1.0
    for pieces in (1, 4):
        how = one.how.model_copy(update={"accumulate": pieces})
        found = replace(APART, between=link).estimate(replace(one, how=how), 2)
        hidden_s = 2 / 3 * 8e-3 / pieces * (1 - early)  # a rank has 8 samples, of a millisecond each
        assert found.exchange_s == pytest.approx(4.0 - hidden_s, rel=1e-9)  # each portion waits twice for a second


def test_gloo_sums_everything_where_a_part_would_do():
    one = point(4, 8, "zero3")
    gathered, scattered = 3 / 4 * 4 * one.shape.num_parameters, 3 / 4 * 4 * one.shape.num_parameters
    on_cpu = replace(APART, on_gpu=False)
    assert on_cpu.exchange_s(one, 4, 1.0) == pytest.approx(1e-8 * (gathered + 2 * scattered), rel=1e-3)
