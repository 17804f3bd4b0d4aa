"""A scaling run on one machine with 1 and 2 processes, to its report and a projection; nothing is measured twice."""

import json

import pytest

from tests.commands import run

CONFIG = """
run: run
world_sizes: [1, 2]
weak: [2]
strong: [4]
models: [64K]
engines: {ddp: {}, zero1: {kind: zero, zero_stage: 1}}
grid: 16
warmup: 1
steps: 2
repeats: 3
device_hour: 2
network: {between: {gbytes_s: 20, latency_us: 10}}
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_a_scaling_run_with_one_and_two_processes(tmp_path):
    (tmp_path / "scaling.yaml").write_text(CONFIG)
    run(["scaling", "scaling.yaml", "run", "--ranks", "1"], cwd=tmp_path)
    assert len(list((tmp_path / "run" / "points").iterdir())) == 4
    said = run(["scaling", "scaling.yaml", "run"], cwd=tmp_path)
    points = sorted((tmp_path / "run" / "points").iterdir())
    assert len(points) == 6
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
    kinds = ("weak: 64K fp32 {}, 2 samples a rank", "strong: 64K fp32 {}, 4 samples")
    assert curves == {kind.format(engine): [1, 2] for kind in kinds for engine in ("ddp", "zero1")}
    for title, rows in document["curves"].items():
        first, second = rows
        assert first["efficiency"] == 1.0
        strong = title.startswith("strong")
        assert (first["batch"], second["batch"]) == (4 if strong else 2, 4)
        assert second["efficiency"] == pytest.approx(first["step_s"] / second["step_s"] / (2 if strong else 1))
        assert second["samples_per_s"] == pytest.approx(4 / second["step_s"])
        assert 0 <= second["communication"] < 1
        assert second["device_hours_per_million"] == pytest.approx(1e6 * second["step_s"] / 4 * 2 / 3600)
    report = (tmp_path / "run" / "report.md").read_text()
    priced = [row[-1] for row in columns(report, "cost per 1e6")]
    hours = [row["device_hours_per_million"] for rows in document["curves"].values() for row in rows]
    assert priced == [f"{2 * one:.3g}" for one in hours]
    for kind in ("weak", "strong"):
        assert f"![{kind} scaling; bars: all repeats]({kind}.svg)" in report
        assert (tmp_path / "run" / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
    kept = json.loads((tmp_path / "run" / "points.json").read_text())
    assert [one["repeats"] for one in kept] == [json.loads(path.read_text())["repeats"] for path in points]

    before = [path.stat().st_mtime_ns for path in points]
    assert "nothing to do here" in run(["scaling", "scaling.yaml", "run"], cwd=tmp_path)
    assert [path.stat().st_mtime_ns for path in points] == before
    planned = run(["scaling", "scaling.yaml", "plan", "world_sizes=[1, 2, 4]"], cwd=tmp_path)
    assert "4 points are missing" in planned

    told = run(["scaling", "scaling.yaml", "plan", "--nodes", "1..8", "--gpus-per-node", "2", "--json"], cwd=tmp_path)
    assert "PROJECTED, not measured: 64K fp32, weak: 2 samples a rank" in told
    assert "links inside a node: " in told
    assert "fitted to measured points" in told
    assert "ASSUMED by the settings (network.*)" in told
    rows = next(iter(json.loads(told.splitlines()[-1])["tables"].values()))
    assert [row["ranks"] for row in rows] == [2, 4, 8, 16]
    assert "cost per 1e6" in told
    again = run(["scaling", "again.yaml", "plan", "--nodes", "4", "run=new"], cwd=_reuse(tmp_path))
    assert "PROJECTED" in again  # another run's points serve too


def columns(report, last):
    """Return the rows of all tables of a report whose last column has this name."""
    found, within = [], False
    for line in report.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            within = False
        elif within and set(line) - set("|-: "):
            found.append(cells)
        elif cells[-1] == last:
            within = True
    return found


@pytest.mark.slow
def test_a_point_in_bfloat16_that_reads_a_data_folder(poisson_data, tmp_path):
    text = CONFIG.replace("world_sizes: [1, 2]", "world_sizes: [1]").replace("strong: [4]\n", "")
    text = text.replace(", zero1: {kind: zero, zero_stage: 1}", "") + f"data: {poisson_data}\nprecisions: [bf16]\n"
    (tmp_path / "data.yaml").write_text(text)
    run(["scaling", "data.yaml", "run"], cwd=tmp_path)
    (path,) = (tmp_path / "run" / "points").iterdir()
    point = json.loads(path.read_text())
    assert path.name.startswith("64K-bf16-ddp-n1-b2-")
    assert (point["point"]["data"], point["point"]["how"]["precision"]) == (str(poisson_data), "bf16")
    assert 0 < point["wait_s"] < point["step_s"]
    report = (tmp_path / "run" / "report.md").read_text()
    (row,) = columns(report, "cost per 1e6")
    head = next(line for line in report.splitlines() if "data wait" in line)
    at = [cell.strip() for cell in head.strip("|").split("|")].index("data wait")
    assert row[at] == f"{point['wait_s'] / point['step_s']:.1%}"

    said = run(["scaling", "data.yaml", "run", "run=other", "grid=32"], code=2, cwd=tmp_path)
    assert f"{poisson_data} has 13 samples of 16 x 16 with 3 coefficients; the point needs 2 of 32 x 32 with 3" in said
    assert "Traceback" not in said


def _reuse(folder):
    (folder / "again.yaml").write_text(CONFIG + "measured: [run/points.json]\n")
    return folder


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["paln"], "scaling can do plan, run, submit, report, not 'paln' (did you mean 'plan'?)"),
        ([], "scaling can do plan, run, submit, report: fmsci scaling CONFIG ACTION"),
        (["report"], "no point of run on 16 x 16 is measured; start with fmsci scaling CONFIG run"),
        (["plan", "--nodes", "1..4"], "a projection starts from measured points, and run has none"),
        (["run", "--point", "9"], "there is no point 9: run has 6, from 0"),
        (["run", "--point", "5"], "needs 2 ranks, not 1"),
        (["plan", "--point", "1"], "--point goes with run"),
        (["submit", "world_sizes=[6]", "--site", "perlmutter", "--account", "a"], "6 ranks do not fill nodes of perl"),
    ],
)
def test_a_mistake_is_a_sentence(arguments, sentence, tmp_path):
    (tmp_path / "scaling.yaml").write_text(CONFIG)
    said = run(["scaling", "scaling.yaml", *arguments], code=2, cwd=tmp_path)
    assert sentence in said
    assert "Traceback" not in said
