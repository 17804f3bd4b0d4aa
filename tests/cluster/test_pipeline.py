"""A pipeline and a study as jobs that wait for one another, on a real cluster."""

import json

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]

TRAIN = """
run: {run}
data: {{path: data}}
{model}
optim: {{epochs: 1, batch_size: 5}}
engine: {{threads: 1}}
monitor: {{pictures: false}}
"""
FILES = {
    "data.yaml": "{system: poisson, range: [1, 5], grid: 16, train: 8, valid: 4, test: 4, output: data}",
    "pretrain.yaml": TRAIN.format(run="pretrain", model="model: {width: 4, modes: 4, layers: 2}"),
    "finetune.yaml": TRAIN.format(run="unused", model="model: {modes: 16}"),  # too many for a run from scratch
    "study.yaml": "{study: q1, run: study, pretrained: pretrain/model, train: finetune.yaml, samples: [8], steps: 2, "
    "overrides: ['model.modes=null']}",
    "pipeline.yaml": "{generate: [data.yaml], pretrain: pretrain.yaml, study: study.yaml, evaluate: [data], "
    "nodes: {generate: '2', pretrain: '2'}}",
}


@pytest.fixture
def place(cluster):
    folder = cluster.folder / "pipeline"
    folder.mkdir()
    for name in ("slurm", "configs"):
        (folder / name).symlink_to(cluster.folder / name)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    cluster.folder, before = folder, cluster.folder
    yield folder
    cluster.folder = before


def submit(cluster):
    lines = cluster.login("fmsci", "submit", "pipeline", "pipeline.yaml", "--site", "local").splitlines()
    return {name: what for name, _, what in (line.partition(": ") for line in lines)}


def job_of(said):
    return said.partition("as job ")[2].split(",")[0]


def test_a_pipeline_submits_what_is_missing_and_no_more(cluster, place):
    first = submit(cluster)
    names = ["generate data", "pretrain", "study", "evaluate data", "report"]
    assert all(first[name].startswith("submitted as job ") for name in names)
    assert ", after pretrain, generate data" in first["study"]
    again = submit(cluster)  # while they wait
    assert all(again[name] in {f"queued as job {job_of(first[name])}", "finished"} for name in names)
    assert again["report"].startswith("queued")
    # The runs from scratch fail (16 modes do not fit the grid): the report, which waits for them, is cancelled.
    states = [cluster.ended(job_of(first[name])) for name in names]
    assert states == ["COMPLETED", "COMPLETED", "MIXED", "COMPLETED", "CANCELLED"]
    assert not (place / "study" / "report.md").exists()
    assert "a model with 16 modes needs a grid of at least 32 x 32" in cluster.login("bash", "-c", "cat study/*.log")

    (place / "study.yaml").write_text(FILES["study.yaml"].replace("modes=null", "modes=4"))
    third = submit(cluster)
    assert [third[name] for name in ("generate data", "pretrain", "evaluate data")] == ["finished"] * 3
    assert third["report"].startswith("submitted")
    assert cluster.ended(job_of(third["report"])) == "COMPLETED"
    (row,) = json.loads((place / "study" / "table.json").read_text())["rows"]
    assert row["samples"] == 8
    assert 0.3 < row["ratio"] < 3
    fourth = submit(cluster)
    assert [fourth[name] for name in names] == ["finished"] * 5

    told = json.loads(cluster.login("fmsci", "status", "pretrain", "study", "--json").splitlines()[-1])
    assert [run["state"] for run in told] == ["finished"] * 3
    assert [(run["step"], run["steps"]) for run in told] == [(2, 2)] * 3
