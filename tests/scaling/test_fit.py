"""The fit finds the numbers again that made the points, and foretells those that were left out."""

from dataclasses import replace

import numpy as np
import pytest

from fmsci.config.scaling import LinkSettings, NetworkSettings
from fmsci.scaling.cost import Compute, CostModel, Link
from fmsci.scaling.fit import fit, fit_line
from fmsci.scaling.left_out import left_out
from tests.scaling.made import MODEL, as_measured, measured, point


@pytest.mark.parametrize("engines", [("ddp",), ("ddp", "ddp_bf16", "zero1", "zero2", "zero3")], ids=len)
def test_known_numbers_are_found_again(engines):
    found = fit(measured(engines))
    for key, truth in MODEL.compute.items():
        assert found.compute[key].fixed_s == pytest.approx(truth.fixed_s, rel=1e-6)
        assert found.compute[key].sample_s == pytest.approx(truth.sample_s, rel=1e-6)
        assert found.compute[key].update_s == pytest.approx(truth.update_s, rel=1e-6)
    assert found.crowd == pytest.approx(MODEL.crowd, rel=1e-6)
    assert found.between.overlap == pytest.approx(MODEL.between.overlap)
    for name in ("latency_s", "byte_s", "limited"):
        assert getattr(found.between, name) == pytest.approx(getattr(MODEL.between, name), rel=1e-3), name
    assert found.between.measured
    for name in ("latency_s", "byte_s"):
        assert getattr(found.inside, name) == pytest.approx(getattr(MODEL.inside, name), rel=1e-3), name


def test_replayed_steps_are_a_ground_of_their_own():
    """On GPUs short steps of DDP are replayed, and those of ZeRO wait for the host."""
    keys = {(*key, "replayed"): replace(known, fixed_s=known.fixed_s / 8) for key, known in MODEL.compute.items()}
    truth = replace(MODEL, compute={**MODEL.compute, **keys}, on_gpu=True)
    points = []
    for one in measured(("ddp", "zero1")):
        own = truth.compute[truth.key(one.point)]
        crowd = truth.crowding(one.point.world_size)
        assert one.point.replayed is (one.point.engine == "ddp")
        step = truth.estimate(one.point, one.nodes).step_s
        alone = crowd * (own.seconds(one.point.local) + own.update_s)
        how = {"step_s": step, "alone_s": alone, "device": "some GPU", "replayed": one.point.replayed}
        points.append(replace(one, **how))
    points += [
        replace(as_measured(point(1, b, "zero1", m), 1), device="some GPU") for m in ("1M", "16M") for b in (2, 4)
    ]
    found = fit(points)
    assert found.compute.keys() == truth.compute.keys()
    for key, known in truth.compute.items():
        assert found.compute[key].fixed_s == pytest.approx(known.fixed_s, rel=1e-6)
        assert found.compute[key].sample_s == pytest.approx(known.sample_s, rel=1e-6)
    for name in ("latency_s", "byte_s", "limited"):  # of the overlap such steps tell nothing
        assert getattr(found.between, name) == pytest.approx(getattr(MODEL.between, name), rel=1e-3), name


def test_steps_that_compute_again_what_they_did_not_keep_are_no_ground_for_others():
    points = measured()
    for one in [one for one in points if one.point.world_size == 1]:
        how = one.point.how.model_copy(update={"recompute": 1})
        again = replace(one.point, engine="saving", how=how)
        points.append(replace(one, point=again, alone_s=1.4 * (one.alone_s - one.update_s) + one.update_s))
    found = fit(points)
    for key, truth in MODEL.compute.items():
        assert found.compute[key].sample_s == pytest.approx(truth.sample_s, rel=1e-6)
        assert found.compute[(*key, "recompute 1")].sample_s == pytest.approx(1.4 * truth.sample_s, rel=1e-6)


def test_steps_left_out_are_foretold():
    checked = left_out(measured(limits=(100.0, 200.0, 400.0)))
    assert set(checked) == {"world size and link speed", "world size", "link speed"}
    for pairs in checked.values():
        assert pairs
        for step in pairs:
            assert step.projected_s == pytest.approx(step.one.step_s, rel=5e-3), step.one.point.name
            assert step.exchange_only_s == pytest.approx(step.one.step_s, rel=5e-3), step.one.point.name


def test_what_was_left_out_does_not_help_its_own_projection():
    """A speed at which everything takes twice as long is foretold as the others say, so wrongly."""
    points = [
        replace(one, step_s=2 * one.step_s) if one.point.limit_mbit == 400.0 else one
        for one in measured(limits=(100.0, 200.0, 400.0))
    ]
    for step in left_out(points)["link speed"]:
        if step.one.point.limit_mbit == 400.0:
            assert step.projected_s == pytest.approx(step.one.step_s / 2, rel=0.02)


def test_noise_moves_the_numbers_little():
    random = np.random.default_rng(3)
    points = [
        as_measured(one.point, one.nodes, factor=float(random.normal(1.0, 0.03)))
        for one in measured(limits=(100.0, 200.0, 400.0, 800.0))
    ]
    found = fit(points)
    assert found.between.limited == pytest.approx(MODEL.between.limited, rel=0.1)
    wrong = [abs(found.estimate(one.point, one.nodes).step_s / one.step_s - 1) for one in points]
    assert np.median(wrong) < 0.05


def test_a_floor_is_found():
    truth = Compute(5e-3, 1e-3, 1e-4, 0.0)
    found = fit_line({b: truth.seconds(b) for b in (1, 8, 32, 128, 256)})
    assert found.floor_s == pytest.approx(truth.floor_s)
    assert found.fixed_s == pytest.approx(truth.fixed_s)
    assert found.sample_s == pytest.approx(truth.sample_s)
    assert fit_line({4: 8e-3}) == Compute(0.0, 0.0, 2e-3, 0.0)


def test_steps_in_pieces_tell_of_the_size_of_a_piece():
    points = []
    for pieces, batch in ((1, 8), (2, 8), (2, 32), (4, 16)):
        one = point(1, batch)
        how = one.how.model_copy(update={"accumulate": pieces})
        points.append(as_measured(replace(one, how=how), 1))
    (found,) = fit(points).compute.values()
    assert (found.fixed_s, found.sample_s, found.update_s) == pytest.approx((4e-3, 3e-3, 8e-4))


def test_steps_of_gpus_make_a_model_of_gpus():
    assert not fit(measured()).on_gpu
    assert fit([replace(one, device="NVIDIA H100") for one in measured()]).on_gpu


def test_links_that_nothing_measured_are_as_assumed():
    network = NetworkSettings(between=LinkSettings(gbytes_s=20, latency_us=8, overlap=0.5), rounds="tree")
    alone = [one for one in measured() if one.nodes == 1]
    found = fit(alone, network)
    assert found.between == Link(8e-6, 1 / 20e9, overlap=0.5)
    assert found.inside.measured
    assert fit(alone).between is None


def test_the_time_that_deepspeed_takes_for_itself():
    slow = replace(MODEL, zero=(5e-3, 2e-9))
    points = measured() + [as_measured(point(1, 8, "zero1", model), 1, slow) for model in ("1M", "16M")]
    assert fit(points).zero == pytest.approx(slow.zero, rel=1e-6)


def test_a_model_without_points_knows_nothing():
    with pytest.raises(KeyError):
        CostModel({}).estimate(point(1, 4), 1)
