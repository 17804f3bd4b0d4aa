"""A scaling run on one machine with 1 and 2 processes, to its report and a projection; nothing is measured twice."""

import json

import pytest

from tests.commands import run

CONFIG = """
run: run
world_sizes: [1, 2]
weak: [2]
models: [64K]
engines: {ddp: {}, zero1: {kind: zero, zero_stage: 1}}
grid: 16
warmup: 1
steps: 2
repeats: 3
network: {between: {gbytes_s: 20, latency_us: 10}}
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_a_scaling_run_with_one_and_two_processes(tmp_path):
    (tmp_path / "scaling.yaml").write_text(CONFIG)
    said = run(["scaling", "scaling.yaml", "run"], cwd=tmp_path)
    points = sorted((tmp_path / "run" / "points").iterdir())
    assert len(points) == 4
    for path in points:
        found = json.loads(path.read_text())
        assert [len(times) for times in found["repeats"].values()] == [3, 3, 3]
        assert 0 < found["low_s"] <= found["step_s"] <= found["high_s"]
        assert 0 < found["update_s"] < found["alone_s"]
        assert 0 < found["fastest_rank_s"] <= found["slowest_rank_s"]
        assert found["wait_s"] < found["step_s"]
        assert len(found["hosts"]) == found["point"]["world_size"]
        assert found["nodes"] == 1
    assert "measured 64K-fp32-zero1-n2-b4" in said
    document = json.loads((tmp_path / "run" / "report.json").read_text())
    assert document["missing"] == 0
    curves = {title: [row["ranks"] for row in rows] for title, rows in document["curves"].items()}
    assert curves == {f"weak: 64K fp32 {engine}, 2 samples a rank": [1, 2] for engine in ("ddp", "zero1")}
    for rows in document["curves"].values():
        first, second = rows
        assert first["efficiency"] == 1.0
        assert second["efficiency"] == pytest.approx(first["step_s"] / second["step_s"])
        assert second["samples_per_s"] == pytest.approx(4 / second["step_s"])
        assert 0 <= second["communication"] < 1
        assert second["device_hours_per_million"] == pytest.approx(1e6 * second["step_s"] / 4 * 2 / 3600)
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| ranks | batch | step ms |" in report
    assert "![weak scaling; bars: all repeats](weak.svg)" in report
    assert (tmp_path / "run" / "weak.png").read_bytes().startswith(b"\x89PNG")

    before = [path.stat().st_mtime_ns for path in points]
    assert "nothing to do here" in run(["scaling", "scaling.yaml", "run"], cwd=tmp_path)
    assert [path.stat().st_mtime_ns for path in points] == before
    planned = run(["scaling", "scaling.yaml", "plan", "world_sizes=[1, 2, 4]"], cwd=tmp_path)
    assert "2 points are missing" in planned

    told = run(["scaling", "scaling.yaml", "plan", "--nodes", "1..8", "--gpus-per-node", "2", "--json"], cwd=tmp_path)
    assert "PROJECTED, not measured: 64K fp32, weak: 2 samples a rank" in told
    assert "links inside a node: " in told
    assert "fitted to measured points" in told
    assert "ASSUMED by the settings (network.*)" in told
    rows = next(iter(json.loads(told.splitlines()[-1])["tables"].values()))
    assert [row["ranks"] for row in rows] == [2, 4, 8, 16]
    again = run(["scaling", "again.yaml", "plan", "--nodes", "4", "run=new"], cwd=_reuse(tmp_path))
    assert "PROJECTED" in again  # another run's points serve too


def _reuse(folder):
    (folder / "again.yaml").write_text(CONFIG + "measured: [run/points.json]\n")
    return folder


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["paln"], "scaling can do plan, run, submit, report, not 'paln' (did you mean 'plan'?)"),
        (["report"], "no point of run is measured; start with fmsci scaling CONFIG run"),
        (["plan", "--nodes", "1..4"], "a projection starts from measured points, and run has none"),
        (["run", "--point", "9"], "there is no point 9: run has 4, from 0"),
        (["run", "--point", "3"], "needs 2 ranks, not 1"),
        (["plan", "--point", "1"], "--point goes with run"),
        (["submit", "world_sizes=[6]", "--site", "perlmutter", "--account", "a"], "6 ranks do not fill nodes of perl"),
    ],
)
def test_a_mistake_is_a_sentence(arguments, sentence, tmp_path):
    (tmp_path / "scaling.yaml").write_text(CONFIG)
    said = run(["scaling", "scaling.yaml", *arguments], code=2, cwd=tmp_path)
    assert sentence in said
    assert "Traceback" not in said
