"""A pipeline and a study as jobs that wait for one another: what is submitted, what is told, on a real cluster too."""

import json
import shutil
from pathlib import Path

import pytest

from fmsci.cluster.pipeline import submit_pipeline
from fmsci.cluster.pipeline_status import pipeline_status
from fmsci.cluster.queue import Queued
from fmsci.cluster.submit import Request
from fmsci.config import StudySettings, load_settings
from fmsci.shards import read_manifest
from fmsci.shards.content import content_hash, made_data
from fmsci.study.plan import plan
from tests.cluster.running import job_of
from tests.commands import run as fmsci

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
    "finetune.yaml": TRAIN.format(run="unused", model=""),
    "study.yaml": "{study: q1, run: study, models: {m: {folder: pretrain/model}}, tasks: {t: data}, "
    "train: finetune.yaml, samples: [8, 9], steps: 2}",  # there are eight
    "pipeline.yaml": "{generate: [data.yaml], pretrain: pretrain.yaml, study: study.yaml, evaluate: [data], "
    "nodes: {generate: '2', pretrain: '2'}}",
}


SITE = Path(__file__).parents[2] / "configs/site/generic.yaml"
NAMES = ["generate data", "pretrain", "study", "evaluate data", "report"]


def make(*paths):
    """Leave behind what tells that a link is finished."""
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"rel_l2": 0.1}' if path.parent.name == "evaluations" else "{}")


def make_data(like):
    """Leave behind the manifest of data: a study reads what they hold."""
    Path("data").mkdir(exist_ok=True)
    shutil.copy(like / "manifest.json", "data/manifest.json")


ZERO_SHOT = "pretrain/evaluations/data-test.json"


def would(**changes):
    """Return what a submission would do with every link, and what that waits for."""
    placed = submit_pipeline(Path("pipeline.yaml"), [], Request("pipeline", (), **changes), dry_run=True)
    return {one.name: (one.what, one.after) for one in placed}


def test_of_a_new_pipeline_everything_is_submitted(files):
    assert {name: what for name, (what, _) in would().items()} == dict.fromkeys(NAMES, "submitted")
    assert would()["study"][1] == ("pretrain", "generate data")
    assert would()["report"][1] == ("study", "evaluate data")


def test_what_is_finished_stays_so_and_summaries_are_made_again(files, poisson_data):
    """The pretrained run is gone: it is made again, the study's runs are not, which are results of their own."""
    make_data(poisson_data)
    runs = [path for one in plan(load_settings(StudySettings, Path("study.yaml"))).sweep for path in one.results]
    make(*runs, ZERO_SHOT, "study/table.json")
    assert would() == {
        "generate data": ("finished", ()),
        "pretrain": ("submitted", ()),
        "study": ("finished", ()),
        "evaluate data": ("submitted", ("pretrain",)),
        "report": ("submitted", ("evaluate data",)),
    }
    make("pretrain/result.json")
    assert would() == dict.fromkeys(NAMES, ("finished", ()))


def test_an_error_on_other_data_of_that_name_is_no_result(files, poisson_data):
    make_data(poisson_data)
    facts = made_data(read_manifest(poisson_data))
    make("pretrain/result.json", ZERO_SHOT)
    for content, what in (("of other data", "submitted"), (content_hash(facts), "finished")):
        Path(ZERO_SHOT).write_text(json.dumps({"rel_l2": 0.1, "content": content}))
        assert would()["evaluate data"][0] == what
    Path(ZERO_SHOT).write_text("{")
    assert would()["evaluate data"][0] == "submitted"


def test_two_jobs_of_one_name_are_refused(files):
    (files / "other.yaml").write_text(FILES["data.yaml"].replace("output: data", "output: else/data"))
    for setting in ("generate=[data.yaml,other.yaml]", "evaluate=[data,else/data]"):
        said = fmsci(["submit", "pipeline", "pipeline.yaml", setting], code=2, cwd=files)
        assert "data': name one of the two data folders otherwise" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("pipeline pipeline.yaml --nodes 4", "--nodes is not for pipeline: write nodes.pretrain=4 and the like"),
        ("pipeline pipeline.yaml --concurrent 2", "--concurrent is not for pipeline: write concurrent=N behind"),
        ("scaling scaling.yaml --nodes 2", "--nodes is not for scaling: its points have as many as their ranks fill"),
        ("report study.yaml --nodes 2", "--nodes is not for report: one process writes it"),
        ("pretrain pretrain.yaml --concurrent 2", "--concurrent is not for pretrain, but for study and scaling"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(files, words, sentence):
    assert sentence in fmsci(["submit", *words.split()], code=2, cwd=files)


def test_a_dry_run_prints_each_script(files):
    said = fmsci(["submit", "pipeline", "pipeline.yaml", "nodes.pretrain=4", "--site", SITE, "--dry-run"], cwd=files)
    assert said.count("#!/bin/bash") == 5
    assert said.count(": would be submitted") == 5
    assert said.count("#SBATCH --nodes=4") == 1
    assert not (files / "study").exists()


def test_a_mistake_in_any_link_comes_before_the_first_is_submitted(files):
    (files / "finetune.yaml").write_text(FILES["finetune.yaml"].replace("epochs", "epoks"))
    said = fmsci(["submit", "pipeline", "pipeline.yaml"], code=2, cwd=files)
    assert "unknown setting 'optim.epoks'" in said
    assert not (files / "study").exists()


def told(jobs):
    """Return what is told of the links, after they were submitted as jobs 1 to 5; ``jobs`` are those that Slurm has."""
    links = {name: {"jobs": [str(n)], "logs": [f"{n}.log"]} for n, name in enumerate(NAMES, 1)}
    record = Path("study/pipeline.json")
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps({"pipeline": "pipeline.yaml", "overrides": [], "links": links}))
    return {one.link: (one.state, one.why) for one in pipeline_status(record, jobs)}


def test_status_tells_what_a_link_waits_for_and_which_failure_cancelled_it(files, poisson_data):
    make_data(poisson_data)
    waiting = Queued("PENDING", "Dependency", "10:00")
    known = {"2": Queued("RUNNING", "None", "9:00"), "3": waiting, "4": waiting, "5": waiting}
    assert told(known) == {
        "generate data": ("finished", None),
        "pretrain": ("RUNNING", None),
        "study": ("PENDING", "waits for pretrain"),
        "evaluate data": ("PENDING", "waits for pretrain"),
        "report": ("PENDING", "waits for study, evaluate data"),
    }
    (files / "2.log").write_text("[job 2] start 0\nfmsci: out of memory\n[job 2] failed with exit code 2\n")
    failed = {
        "generate data": ("finished", None),
        "pretrain": ("failed", "out of memory (see 2.log)"),
        "study": ("cancelled", "pretrain failed"),
        "evaluate data": ("cancelled", "pretrain failed"),
        "report": ("cancelled", "study cancelled"),
    }
    gone = Queued("CANCELLED", "Dependency", "0:00")
    assert told({"2": Queued("FAILED", "NonZeroExitCode", "9:00"), "3": gone, "4": gone, "5": gone}) == failed
    assert told({}) == failed  # Slurm has forgotten them
    assert told({"2": Queued("CANCELLED", "None", "9:00")})["pretrain"] == ("cancelled", "by scancel")


def submit(cluster, *options):
    lines = cluster.login("fmsci", "submit", "pipeline", "pipeline.yaml", *options or ("--site", "local")).splitlines()
    return {name: what for name, _, what in (line.partition(": ") for line in lines)}


def links(cluster):
    """Return what fmsci status tells of the pipeline's links: state and reason."""
    document = json.loads(cluster.login("fmsci", "status", "study", "--json").splitlines()[-1])
    (told,) = document["pipelines"].values()
    return {link["link"]: (link["state"], link["why"]) for link in told}


@pytest.mark.slurm
@pytest.mark.xdist_group("slurm")
def test_a_pipeline_submits_what_is_missing_and_no_more(cluster, place):
    (place / "pretrain").touch()  # a file where a folder should be
    command = ["fmsci", "submit", "pipeline", "pipeline.yaml", "--site", "local"]
    said = cluster.login(*command, "--sbatch=--hold", code=2)
    assert "fmsci: pretrain: cannot write pretrain/pretrain.sbatch" in said
    assert "(generate data submitted so far; the same command submits the rest)" in said
    (place / "pretrain").unlink()
    first = submit(cluster)
    names = NAMES
    assert first["generate data"].startswith("queued as job ")
    assert all(first[name].startswith("submitted as job ") for name in names[1:])
    cluster.login("scontrol", "release", job_of(first["generate data"]))
    assert ", after pretrain, generate data" in first["study"]
    again = submit(cluster)  # while they wait
    assert all(again[name] in {f"queued as job {job_of(first[name])}", "finished"} for name in names)
    assert again["report"].startswith("queued")
    # The runs with nine samples fail: the report, which waits for them, is cancelled.
    states = [cluster.ended(job_of(first[name])) for name in names]
    assert states == ["COMPLETED", "COMPLETED", "MIXED", "COMPLETED", "CANCELLED"]
    assert not (place / "study" / "report.md").exists()
    said = links(cluster)
    assert said["study"][0] == "failed"
    assert "has 8 train samples, 9 were asked for" in said["study"][1]
    assert said["report"] == ("cancelled", "study failed")
    assert [said[name] for name in ("generate data", "pretrain", "evaluate data")] == [("finished", None)] * 3
    assert "  report: cancelled: study failed\n" in cluster.login("fmsci", "status", "study")

    (place / "study.yaml").write_text(FILES["study.yaml"].replace("[8, 9]", "[8]"))
    third = submit(cluster)
    assert [third[name] for name in ("generate data", "pretrain", "evaluate data")] == ["finished"] * 3
    assert third["report"].startswith("submitted")
    assert cluster.ended(job_of(third["report"])) == "COMPLETED"
    (row,) = json.loads((place / "study" / "table.json").read_text())["rows"]
    assert row["samples"] == 8
    assert 0.3 < row["ratio"] < 3
    fourth = submit(cluster)
    assert [fourth[name] for name in names] == ["finished"] * 5

    told = json.loads(cluster.login("fmsci", "status", "pretrain", "study", "--json").splitlines()[-1])["runs"]
    done = [run for run in told if "-9-" not in run["run"]]  # those with nine samples are told as what they are
    assert [run["state"] for run in done] == ["finished"] * 3
    assert [(run["step"], run["steps"]) for run in done] == [(2, 2)] * 3
    assert len(told) == 5


@pytest.mark.slurm
@pytest.mark.xdist_group("slurm")
def test_where_nothing_is_requeued_a_pipeline_is_made_of_chains(cluster, place, poisson_data):
    """Pretraining is stopped; what waits for it waits for the second job of its chain, which ends it."""
    long = FILES["pretrain.yaml"].replace("epochs: 1", "epochs: 100") + "checkpoint: {every_steps: 25}\n"
    (place / "pretrain.yaml").write_text(long.replace("path: data", f"path: {poisson_data}"))
    (place / "finetune.yaml").write_text(FILES["finetune.yaml"].replace("path: data", f"path: {poisson_data}"))
    study = FILES["study.yaml"].replace("[8, 9]", "[8]").replace("{t: data}", f"{{t: {poisson_data}}}")
    (place / "study.yaml").write_text(study)
    (place / "pipeline.yaml").write_text("{pretrain: pretrain.yaml, study: study.yaml}")
    (place / "site.yaml").write_text("gpu_nodes: {cores: 1}\nrequeue: false\n")
    said = submit(cluster, "--site", "site.yaml", "--chain", "2")
    stopped, second = job_of(said["pretrain"]).split(" then ")
    array, again = job_of(said["study"]).split(" then ")
    cluster.reached(place / "pretrain", 30)
    cluster.login("scancel", "--batch", "--signal=USR2", stopped)
    assert links(cluster)["study"] == ("PENDING", "waits for pretrain")
    jobs = [stopped, second, array, again, job_of(said["report"])]
    assert [cluster.ended(job) for job in jobs] == ["FAILED", *["COMPLETED"] * 4]
    assert "is finished already" in cluster.login("bash", "-c", f"cat study/slurm-{again}_*.log")
    assert set(links(cluster).values()) == {("finished", None)}
