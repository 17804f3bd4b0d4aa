"""The same submission again while its jobs are in the queue, to a Slurm that is pretended."""

import json
from pathlib import Path

import pytest

from fmsci.cluster.pipeline import submit_pipeline
from fmsci.cluster.sharing import ARRAY_FILE, read_record
from fmsci.cluster.submit import Request
from fmsci.errors import UserError
from tests.cluster import test_pipeline
from tests.commands import run

FILES = test_pipeline.FILES | {"site.yaml": "gpu_nodes: {cores: 1}\nrequeue: false\n"}


def submit(dry_run=False):
    placed = submit_pipeline(Path("pipeline.yaml"), [], Request("pipeline", (), "site.yaml"), dry_run)
    return {one.name: (one.what, one.jobs) for one in placed}


def test_an_array_in_the_queue_is_not_submitted_again(files, slurm):
    words = ["submit", "study", "study.yaml"]
    assert "job 1: script" in run(words, cwd=files)
    said = run(words, code=2, cwd=files)
    assert said == (
        "fmsci: the runs of study are in the queue already, as job 1; submit this when they have ended (fmsci status "
        "tells), or end them: scancel 1\n"
    )
    assert len(slurm.sent) == 1
    assert read_record(Path("study") / ARRAY_FILE).links["study"].jobs == ("1",)
    slurm.becomes(1, "CANCELLED")
    assert "job 2: script" in run(words, cwd=files)


def test_status_without_an_answer_of_slurm_calls_nothing_failed(files, slurm, monkeypatch):
    """Where squeue fails, and where there is none, as when a shared folder is looked at from elsewhere."""
    submit()

    def told():
        said = run(["status", "study", "--json"], cwd=files)
        document = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
        (links,) = document["pipelines"].values()
        return said, {(link["state"], link["why"]) for link in links}

    assert {state for state, _ in told()[1]} == {"PENDING"}
    slurm.is_down()
    said, states = told()
    assert states == {("unknown", "the queue could not be asked")}
    assert "Slurm does not answer here (squeue: unable to contact slurm controller)" in said
    monkeypatch.setenv("PATH", str(files))
    assert told()[1] == {("unknown", "the queue could not be asked")}


def waits(sent):
    return [word.removeprefix("--dependency=") for word in sent if word.startswith("--dependency=")]


def test_of_a_chain_that_slurm_did_not_take_whole_the_rest_is_submitted(files, slurm):
    slurm.takes(4)  # three jobs make data, one pretrains
    sentence = "pretrain: Slurm refused the job: .* submitted so far; the same command submits the rest"
    with pytest.raises(UserError, match=sentence):
        submit()
    slurm.takes(1000)
    said = run(["submit", "pipeline", "pipeline.yaml", "--site", "site.yaml", "--dry-run"], cwd=files)
    assert "pretrain: queued as job 4, 2 more of its chain would be submitted, after generate data" in said
    assert submit() == {
        "generate data": ("queued", ("1", "2", "3")),
        "pretrain": ("queued", ("4", "5", "6")),
        "study": ("submitted", ("7", "8", "9")),
        "evaluate data": ("submitted", ("10",)),
        "report": ("submitted", ("11",)),
    }
    for job in (5, 6):
        assert waits(slurm.sent[job - 1]) == ["afterany:4,afterok:3,singleton"]
        assert "--export=ALL,FMSCI_LINK=yes" in slurm.sent[job - 1]
    names = {word for sent in slurm.sent[3:6] for word in sent if word.startswith("--job-name=")}
    assert len(names) == 1
    assert waits(slurm.sent[7 - 1]) == ["afterok:6:3,singleton"]
    (links,) = [json.loads(Path("study/pipeline.json").read_text())["links"]]
    assert (links["pretrain"]["jobs"], links["pretrain"]["chain"]) == (["4", "5", "6"], 3)
    assert len(links["pretrain"]["logs"]) == 3
    before = len(slurm.sent)
    slurm.becomes(4, "FAILED")  # it has saved, and the next one continues
    assert submit()["pretrain"] == ("queued", ("5", "6"))
    assert len(slurm.sent) == before
