"""What points came to: their files, their curves."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fmsci.config import ScalingSettings
from fmsci.errors import UserError
from fmsci.files import write_json
from fmsci.scaling.measured import efficiency, load_measured, measured_from, series
from fmsci.scaling.points import plan
from tests.scaling.made import as_measured, point


def test_curves_and_efficiency():
    points = [as_measured(point(ranks, batch), 1) for ranks, batch in ((1, 4), (2, 8), (2, 4))]
    curves = series(points, [4], [4])
    assert {title.partition(":")[0]: [one.point.world_size for one in curve] for title, curve in curves.items()} == {
        "weak": [1, 2],
        "strong": [1, 2],
    }
    weak = next(curve for title, curve in curves.items() if title.startswith("weak"))
    assert efficiency(weak) == pytest.approx([1.0, weak[0].step_s / weak[1].step_s])
    assert weak[1].device_hours == pytest.approx(1e6 * weak[1].step_s / 8 * 2 / 3600)


def test_one_rank_is_the_first_of_every_link_speed():
    points = [as_measured(point(1, 4), 1)]
    points += [as_measured(point(ranks, 4 * ranks, limit=limit), ranks) for ranks in (2, 4) for limit in (400.0, 100.0)]
    curves = series(points, [4], [])
    assert list(curves) == [f"weak: 1M fp32 ddp, 4 samples a rank, {limit} Mbit/s" for limit in (100, 400)]
    assert all([one.point.world_size for one in curve] == [1, 2, 4] for curve in curves.values())
    planned = plan(ScalingSettings(run="r", world_sizes=[1, 2, 4], weak=[4], network={"limit_mbit": 100}))
    assert [one.limit_mbit for one in planned] == [None, 100.0, 100.0]


def test_the_share_of_the_exchange_leaves_out_the_cut_update():
    one = as_measured(point(2, 8, "zero1"), 2)
    assert one.bare_s == pytest.approx(one.alone_s - one.update_s / 2)
    assert one.communication == pytest.approx(1 - one.bare_s / one.step_s)
    assert as_measured(point(1, 8, "zero1"), 1).communication == 0.0


def test_engines_of_one_name_that_differ_are_apart():
    usual = [as_measured(point(ranks, 4 * ranks), ranks) for ranks in (1, 2)]
    saving = replace(usual[0].point, how=usual[0].point.how.model_copy(update={"recompute": 1}))
    slow = replace(usual[0], point=saving, step_s=2 * usual[0].step_s)
    curves = series([*usual, slow], [4], [])
    assert {title: [one.point.world_size for one in curve] for title, curve in curves.items()} == {
        "weak: 1M fp32 ddp (recompute as usual), 4 samples a rank": [1, 2],
        "weak: 1M fp32 ddp (recompute 1), 4 samples a rank": [1],
    }
    of_files = replace(usual[1], point=replace(usual[1].point, data="data/d"))
    assert [title.partition(",")[0] for title in series([usual[0], of_files], [4], [])] == [
        "weak: 1M fp32 ddp (data in memory)",
        "weak: 1M fp32 ddp (data data/d)",
    ]


def test_what_is_loaded_is_of_the_grid_and_the_device_and_each_once(tmp_path: Path):
    one, two = as_measured(point(1, 4), 1), as_measured(point(2, 8), 1)
    coarse, elsewhere = replace(one, point=replace(one.point, grid=32)), replace(two, device="a GPU")
    for found in (one, coarse):
        write_json(tmp_path / "run" / "points" / f"{found.point.name}.json", document(found))
    listed = tmp_path / "points.json"
    write_json(listed, [document(found) for found in (one, two, elsewhere, coarse)])
    settings = ScalingSettings(run=tmp_path / "run", world_sizes=[1], weak=[4], grid=64, measured=[listed, listed])
    assert load_measured(settings) == [one, two]
    assert load_measured(settings.model_copy(update={"grid": 32})) == [coarse]
    write_json(tmp_path / "other" / "points" / "a.json", document(coarse))  # of another grid: its device is no matter
    assert load_measured(settings.model_copy(update={"run": tmp_path / "other"})) == [one, two, elsewhere]
    assert load_measured(settings.model_copy(update={"run": tmp_path / "none"})) == [one, two, elsewhere]


def document(one):
    """Return what a result file says, as ``points.json`` has it."""
    return json.loads(json.dumps(asdict(one) | {"point": one.point.facts()}))


def test_a_point_is_read_as_it_was_written():
    for one in (as_measured(point(2, 8, "zero1", limit=100.0), 2), as_measured(point(1, 4), 1)):
        assert measured_from(document(one), "x.json") == one


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step_s": "fast"}, "'step_s' is 'fast' but should be a number"),
        ({"step_s": 0.0}, "'step_s' is 0.0 but should be greater than 0"),
        ({"nodes": None}, "'nodes' is null but should be a whole number"),
        ({"repeats": {"step": ["a"]}}, "'repeats.step.0' is 'a' but should be a number"),
        ({"point": {}}, "the setting 'point.world_size' is missing"),
        ({"point": [1]}, "'point' is [1] but should be a section"),
    ],
)
def test_a_file_that_is_no_point_is_told(change, said):
    with pytest.raises(UserError) as caught:
        measured_from(document(as_measured(point(1, 4), 1)) | change, "x.json")
    assert str(caught.value).startswith(f"x.json: {said}")
    assert str(caught.value).endswith("it is no measured point: remove it")
    with pytest.raises(UserError, match=r"x\.json: a mapping of keys to values is needed"):
        measured_from([1], "x.json")
