"""Steps that were measured on shaped links (tools/bench_scaling.sh) are foretold by a model that has not seen them."""

import statistics
from pathlib import Path

from fmsci.files import read_json
from fmsci.scaling.left_out import left_out
from fmsci.scaling.measured import measured_from

RECORDED = Path(__file__).parent / "shaped.json"


def test_unseen_world_sizes_and_link_speeds_are_foretold():
    measured = [measured_from(entry, str(RECORDED)) for entry in read_json(RECORDED)]
    assert {one.point.limit_mbit for one in measured} == {None, 100.0, 200.0, 400.0, 800.0}
    assert {one.point.world_size for one in measured} == {1, 2, 3, 4}
    for name, steps in left_out(measured).items():
        errors = [abs(step.projected_s / step.one.step_s - 1) for step in steps]
        assert len(errors) == 35
        assert statistics.median(errors) < 0.05, name
        assert sorted(errors)[-2] < 0.13, name
        assert max(errors) < 0.2, name
        assert max(abs(step.exchange_only_s / step.one.step_s - 1) for step in steps) < 0.13, name
