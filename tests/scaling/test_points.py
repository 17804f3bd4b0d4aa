"""Which points there are, and what they are called."""

from dataclasses import replace
from pathlib import Path

import pytest

from fmsci.config import ScalingSettings, load_settings
from fmsci.config.sections import EngineSettings
from fmsci.errors import UserError
from fmsci.scaling.points import missing, plan, result_path
from tests.scaling.made import point

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
    assert plan(settings(strong=[4, 16], world_sizes=[4, 1, 2])) == plan(settings(strong=[4, 16]))


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
    other, recomputed = replace(one, grid=128), replace(one, how=EngineSettings(recompute=2))
    assert len(names | {other.name, recomputed.name}) == 8
    assert replace(one, how=EngineSettings(timeout_s=7.0)).name == one.name
    assert replace(one, how=EngineSettings(timeout_s=7.0, precision="bf16")).variant == one.variant
    assert recomputed.variant != one.variant


def test_the_names_are_fixed_for_good():
    """What an older installation measured is found again by its name."""
    assert point(2, 8).name == "1M-fp32-ddp-n2-b8-25970e"
    assert point(4, 16, "zero3", limit=100.0).name == "1M-fp32-zero3-n4-b16-100mbit-15c44d"


def test_what_is_measured_is_not_missing(tmp_path):
    wanted = settings(tmp_path)
    points = plan(wanted)
    result_path(tmp_path, points[1]).parent.mkdir()
    result_path(tmp_path, points[1]).write_text("{}")
    assert missing(wanted) == [0, 2]
    assert missing(wanted, ranks=2) == []
    assert missing(wanted, ranks=4) == [2]


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


def test_an_engine_of_a_point_has_its_precision():
    found = plan(settings(precisions=["fp32", "bf16"]))
    assert {one.how.precision for one in found} == {"fp32", "bf16"}
    assert EngineSettings().precision == "fp32"
