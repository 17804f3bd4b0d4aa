"""A scaling run as jobs: an array for each number of ranks, then the report; on a real cluster of three nodes."""

import json
import os
from pathlib import Path

import pytest

from fmsci.cluster.pipeline_status import pipeline_status
from fmsci.cluster.queue import Queued
from fmsci.cluster.scaling import submit_scaling
from fmsci.cluster.submit import Request, prepare
from fmsci.errors import UserError
from tests.cluster.running import job_of, started

FILES = {
    "scaling.yaml": "{run: run, world_sizes: [1, 2], weak: [1], models: [64K], grid: 16, "
    "warmup: 1, steps: 2, repeats: 2}",
}


def test_every_number_of_ranks_is_an_array_and_the_report_waits_for_all(files):
    request = Request("scaling", (), "local", concurrent=2)
    placed = submit_scaling(Path("scaling.yaml"), ["weak=[1, 2]"], request, dry_run=True)
    assert {one.name: one.after for one in placed} == {"1 ranks": (), "2 ranks": (), "report": ("1 ranks", "2 ranks")}
    assert not (files / "run").exists()
    script = prepare(Request("scaling", ("scaling.yaml", "weak=[1, 2]", "--ranks=2"), "local", concurrent=2))
    assert "#SBATCH --nodes=2\n" in script.text
    assert "#SBATCH --ntasks-per-node=1\n" in script.text
    assert "#SBATCH --array=2,3%2\n" in script.text
    assert "set -- scaling.yaml 'weak=[1, 2]' --ranks=2\n" in script.text
    assert script.script == Path("run/scaling-2.sbatch")


def test_ranks_fill_the_nodes_of_a_site(files):
    def directives(ranks):
        text = prepare(
            Request(
                "scaling", ("scaling.yaml", f"world_sizes=[{ranks}]", f"--ranks={ranks}"), "perlmutter", account="a"
            )
        ).text
        return [line for line in text.splitlines() if "--nodes=" in line or "--ntasks-per-node=" in line]

    assert directives(2) == ["#SBATCH --nodes=1", "#SBATCH --ntasks-per-node=2"]
    assert directives(16) == ["#SBATCH --nodes=4", "#SBATCH --ntasks-per-node=4"]
    with pytest.raises(UserError, match="6 ranks do not fill nodes of perlmutter, with 4 each"):
        directives(6)


def test_status_tells_of_the_arrays(files):
    record = files / "run" / "pipeline.json"
    record.parent.mkdir()
    links = {"2 ranks": {"jobs": ["7"], "logs": ["7.log"]}, "report": {"jobs": ["8"], "logs": ["8.log"]}}
    record.write_text(json.dumps({"scaling": "scaling.yaml", "overrides": [], "site": "local", "links": links}))
    known = {"7": Queued("RUNNING", "None", "9:00"), "8": Queued("PENDING", "Dependency", "9:00")}
    told = {one.link: (one.state, one.why) for one in pipeline_status(record, known)}
    assert told["1 ranks"] == ("not submitted", None)
    assert told["2 ranks"] == ("RUNNING", None)
    assert told["report"] == ("PENDING", "waits for 1 ranks, 2 ranks")


@pytest.mark.slurm
@pytest.mark.xdist_group("slurm")
def test_one_two_and_three_nodes_to_the_report(tmp_path):
    """A cluster of its own: shaped wires between three nodes."""
    (tmp_path / "scaling.yaml").write_text(FILES["scaling.yaml"])
    submit = ["fmsci", "scaling", "scaling.yaml", "submit", "--site", "local", "world_sizes=[1, 2, 3]"]
    submit.append("network.limit_mbit=1000")
    with started(tmp_path, f"slurm-3-{os.getpid()}", tmp_path, nodes=3) as cluster:
        shaped = cluster.tool("shape", "1000")
        assert shaped.returncode == 0, shaped.stderr
        said = dict(line.split(": ", 1) for line in cluster.login(*submit).splitlines())
        names = ("1 ranks", "2 ranks", "3 ranks", "report")
        jobs = [job_of(said[name]) for name in names]
        assert [cluster.ended(job) for job in jobs] == ["COMPLETED"] * 4, said
        assert cluster.login(*submit).count("finished") == 4
    document = json.loads((tmp_path / "run" / "report.json").read_text())
    ((title, rows),) = document["curves"].items()
    assert title == "weak: 64K fp32 ddp, 1 samples a rank, 1000 Mbit/s"
    assert [(row["ranks"], row["nodes"]) for row in rows] == [(1, 1), (2, 2), (3, 3)]
    assert document["model"]["between"]["measured"] is True
    assert len(list((tmp_path / "run" / "points").iterdir())) == 3
