"""Which points there are, and what they are called."""

from pathlib import Path

import pytest

from fmsci.config import ScalingSettings, load_settings
from fmsci.config.sections import EngineSettings
from fmsci.errors import UserError
from fmsci.scaling.points import efficiency, measured_from, missing, plan, point_from, result_path, series
from tests.scaling.made import as_measured, point

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs/scaling").glob("*.yaml"))


def settings(run="runs/x", **changes):
    return ScalingSettings(**{"run": run, "world_sizes": [1, 2, 4], "weak": [4]} | changes)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_configuration_is_planned_and_says_what_it_takes(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    points = plan(load_settings(ScalingSettings, path))
    assert len({one.name for one in points}) == len(points) > 1
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Command:", "Hardware:", "Time:", "Expect:"):
        assert any(word in line for line in head), word
    assert all((ROOT / file).exists() for file in load_settings(ScalingSettings, path).measured)


def test_weak_and_strong_share_points():
    assert [(one.world_size, one.batch) for one in plan(settings(strong=[4, 16]))] == [
        (1, 4),
        (1, 16),
        (2, 8),
        (2, 4),
        (2, 16),
        (4, 16),
        (4, 4),
    ]


def test_a_batch_smaller_than_the_ranks_is_left_out():
    assert [one.world_size for one in plan(settings(weak=[], strong=[2]))] == [1, 2]


def test_a_name_is_the_same_step_and_no_other():
    one = point(2, 8)
    names = {
        one.name,
        point(2, 8, "zero1").name,
        point(2, 8, limit=100.0).name,
        point(4, 8).name,
        point(2, 16).name,
        point(2, 8, model="16M").name,
    }
    other = point_from(one.facts() | {"grid": 128})
    recomputed = point_from(one.facts() | {"how": {"recompute": 2}})
    assert len(names | {other.name, recomputed.name}) == 8
    assert point_from(one.facts() | {"how": {"timeout_s": 7.0}}).name == one.name
    assert point_from(one.facts()) == one


def test_what_is_measured_is_not_missing(tmp_path):
    wanted = settings(tmp_path)
    points = plan(wanted)
    result_path(tmp_path, points[1]).parent.mkdir()
    result_path(tmp_path, points[1]).write_text("{}")
    assert missing(wanted) == [0, 2]
    assert missing(wanted, ranks=2) == []
    assert missing(wanted, ranks=4) == [2]


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
    planned = plan(settings(network={"limit_mbit": 100}))
    assert [one.limit_mbit for one in planned] == [None, 100.0, 100.0]


def test_the_share_of_the_exchange_leaves_out_the_cut_update():
    one = as_measured(point(2, 8, "zero1"), 2)
    assert one.bare_s == pytest.approx(one.alone_s - one.update_s / 2)
    assert one.communication == pytest.approx(1 - one.bare_s / one.step_s)
    assert as_measured(point(1, 8, "zero1"), 1).communication == 0.0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weak": []}, "should have samples in weak or in strong"),
        ({"weak": [4, 4]}, "'weak' is [4, 4] but should name each once"),
        ({"models": ["2M"]}, "'models.0' is '2M' but should be"),
        ({"engines": {"ddp": {"precision": "bf16"}}}, "'engines.ddp' has a precision; write it in precisions"),
        ({"network": {"limit": 3}}, "unknown setting 'network.limit' (did you mean 'limit_mbit'?)"),
    ],
)
def test_a_mistake_is_a_sentence(changes, sentence, tmp_path):
    import yaml

    path = tmp_path / "scaling.yaml"
    path.write_text(yaml.safe_dump({"run": "r", "world_sizes": [1], "weak": [4]} | changes))
    with pytest.raises(UserError) as caught:
        load_settings(ScalingSettings, path)
    assert sentence in str(caught.value)


def test_a_file_that_is_no_point_is_told():
    with pytest.raises(UserError, match=r"x\.json is no measured point"):
        measured_from({"point": {}}, "x.json")


def test_an_engine_of_a_point_has_its_precision():
    found = plan(settings(precisions=["fp32", "bf16"]))
    assert {one.how.precision for one in found} == {"fp32", "bf16"}
    assert EngineSettings().precision == "fp32"
