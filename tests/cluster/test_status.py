"""Where runs are, from real run folders and a queue as squeue tells it."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from fmsci.cluster.queue import Queued, queue, submit, try_submit
from fmsci.cluster.run_folders import PIPELINE_FILE, find_pipelines, find_runs, folder_of
from fmsci.cluster.status import describe, run_status
from fmsci.cluster.submit import Request, prepare
from fmsci.errors import UserError
from fmsci.locks import lock
from tests.commands import clean_environment
from tests.commands import run as fmsci
from tests.conftest import TRAINING

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_finished_run(trained):
    found = run_status(trained, {})
    assert (found.state, found.step, found.steps, found.restarts) == ("finished", 12, 12, None)
    entries = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert found.loss == [entry["train/loss"] for entry in entries if "train/loss" in entry][-1]
    assert found.error == entries[-1]["valid/poisson/rel_l2"]
    assert found.samples_per_s > 0
    assert found.checkpoint_age_s >= 0
    assert found.left_s is None
    assert describe(found)[1:3] == ("finished", "12 of 12")


def interrupted(run):
    """Leave a run as it is after 7 of its 12 steps."""
    for name in ("result.json", "outcome.json"):
        (run / name).unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= 7]
    (run / "metrics.jsonl").write_text("".join(kept))
    for path in (run / "checkpoints").iterdir():
        shutil.rmtree(path)


def test_a_run_under_way_has_time_left(copy):
    interrupted(copy)
    assert run_status(copy, {}).state == "stopped"
    with lock(copy / ".lock", "locked"):
        found = run_status(copy, {})
    assert (found.state, found.step, found.steps) == ("running", 7, 12)
    assert found.left_s == pytest.approx(5 * 5 / found.samples_per_s)  # 5 steps of 5 samples


def test_the_step_is_the_one_that_the_sentence_below_tells(train_config, tmp_path):
    """Stopped between two entries of the metrics: what was saved is further than these."""
    words = [*TRAINING, "optim.epochs=4000", "checkpoint.every_epochs=null", "checkpoint.deadline_minutes=0.03"]
    words += ["monitor.every_steps=1000", "monitor.validate_steps=100000"]
    fmsci(["train", train_config, f"run={tmp_path / 'run'}", *words], code=75)
    found = run_status(tmp_path / "run", {})
    (step,) = map(int, re.findall(r"saved after step (\d+) of 12000", found.why))
    assert (found.state, found.step, found.checkpoint_step) == ("saved", step, step)
    assert step > 0
    assert re.fullmatch(rf"step {step}, .* ago", describe(found)[-1])


def test_what_was_done_since_the_newest_checkpoint_is_seen(copy):
    interrupted(copy)
    assert (run_status(copy, {}).step, describe(run_status(copy, {}))[-1]) == (7, "-")
    for name, marked in (("step-00000004", True), ("step-00000006", False), ("step-x", True)):
        (copy / "checkpoints" / name).mkdir()
        if marked:
            (copy / "checkpoints" / name / "COMPLETE").write_text("{}")
    found = run_status(copy, {})
    assert (found.step, found.checkpoint_step) == (7, 4)  # 6 was never finished


LINES = """
from fmsci import terminal
terminal.LINE_EVERY_S = 0.0
from fmsci.cli import main
import sys
main(sys.argv[1:])
"""


def test_every_line_of_a_log_between_start_and_end_names_its_step(train_config, tmp_path):
    """Rank 0's, of a start that is stopped in the middle and of the one that continues it; torch's warnings aside."""
    words = ["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, "optim.epochs=40"]
    told = []
    for more in (["checkpoint.deadline_minutes=1e-9"], []):
        done = subprocess.run(
            [sys.executable, "-c", LINES, *map(str, words), *more],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("[W")]
        assert [line for line in lines if not re.search(r"\bstep \d+|\d+ of \d+ steps|^next: ", line)] == []
        told += lines
    assert sum("from step" in line for line in told) == 2
    assert sum("of 120 steps" in line for line in told) > 50


@pytest.mark.parametrize("status", ["finished", "saved", "failed", "lost"])
def test_status_says_how_a_run_ended_in_the_word_of_its_outcome(copy, status):
    (copy / "outcome.json").write_text(json.dumps({"status": status, "why": "rank 1 on node2", "step": 12}))
    told = run_status(copy, {})
    assert (told.state, told.why) == (status, "rank 1 on node2")


def test_the_queue_knows_better_than_an_earlier_outcome(copy):
    (copy / "slurm_job").write_text("17 2\n")
    waiting = {"17": Queued("PENDING", "BeginTime", "10:00")}
    found = run_status(copy, waiting)
    assert (found.state, found.why, found.job, found.restarts) == ("PENDING", "BeginTime", "17", 2)
    assert run_status(copy, {"17": Queued("COMPLETED", "None", "0:00")}).state == "finished"
    interrupted(copy)
    lost = run_status(copy, {"17": Queued("NODE_FAIL", "None", "0:00")})
    assert lost.state == "NODE_FAIL"


ENDED = "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT"
ALIVE = (
    "COMPLETING CONFIGURING PENDING REQUEUED REQUEUE_FED REQUEUE_HOLD RESIZING RESV_DEL_HOLD RUNNING SIGNALING "
    "SPECIAL_EXIT STAGE_OUT STOPPED SUSPENDED"
)


def test_a_job_is_alive_in_every_state_that_it_may_leave():
    """All states of squeue's documentation."""
    alive = {state: Queued(state, "None", "1:00").alive for state in f"{ENDED} {ALIVE}".split()}
    assert alive == dict.fromkeys(ENDED.split(), False) | dict.fromkeys(ALIVE.split(), True)
    assert len(alive) == 24
    assert Queued("PENDING", "Dependency", "1:00").alive
    assert not Queued("PENDING", "DependencyNeverSatisfied", "1:00").alive  # it waits for ever


ARRAY = """
8|7|RUNNING|None|9:00
9|7|PENDING|BeginTime|9:00
5|5|FAILED|NonZeroExitCode|0:00
7|7|COMPLETED|None|0:00
"""
"""As squeue tells it: an array of three tasks, of which the last to start has the array's own id; and a job alone."""


def test_an_array_lives_while_one_of_its_tasks_does(tmp_path, monkeypatch):
    (tmp_path / "squeue").write_text(f"#!/bin/sh\ncat <<END{ARRAY}END\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = queue()
    assert {job: one.alive for job, one in found.submitted.items()} == {"7": True, "5": False}
    assert {task: one.state for task, one in found.tasks.items()} == {
        "8": "RUNNING",
        "9": "PENDING",
        "7": "COMPLETED",  # what the run of this task is told as
        "5": "FAILED",
    }


def pretend(folder, monkeypatch, script):
    (folder / "sbatch").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_of_what_sbatch_says_the_id_and_the_last_word_are_told(tmp_path, monkeypatch):
    script = tmp_path / "job.sbatch"
    pretend(tmp_path, monkeypatch, f"echo $* >> {tmp_path}/called; echo '17;east'; echo 'sbatch: starts at 9' >&2")
    assert submit(script, ["--hold"]) == "17"  # of several clusters Slurm names the one that took it, too
    assert try_submit(script) == "starts at 9"
    assert (tmp_path / "called").read_text() == f"--parsable --hold {script}\n--test-only {script}\n"
    pretend(tmp_path, monkeypatch, "echo 'sbatch: a hint' >&2; echo 'sbatch: error: no such partition' >&2; exit 1")
    with pytest.raises(UserError, match=r"^Slurm refused the job: no such partition$"):
        submit(script)
    pretend(tmp_path, monkeypatch, "echo 'sbatch: error: too large' >&2; echo 'sbatch: see the manual' >&2; exit 1")
    with pytest.raises(UserError, match=r"^Slurm refused the job: too large$"):
        try_submit(script)
    pretend(tmp_path, monkeypatch, "exit 1")
    with pytest.raises(UserError, match=r"^Slurm refused the job: it gave no reason$"):
        submit(script)


def test_runs_are_found_below_a_folder(copy):
    assert find_runs([copy.parent]) == [copy]
    (copy.parent / "waiting").mkdir()
    (copy.parent / "waiting" / "slurm_job").write_text("18 0\n")
    assert find_runs([copy.parent]) == [copy, copy.parent / "waiting"]
    assert run_status(copy.parent / "waiting", {}).state == "not started"
    with pytest.raises(UserError, match="is no run folder and holds none"):
        find_runs([copy / "model"])


def test_of_thousands_of_files_none_is_asked_for_by_itself(tmp_path, monkeypatch):
    for number in range(3):
        run = tmp_path / f"study/runs/run-{number}"
        (run / "checkpoints/step-00000001").mkdir(parents=True)
        for name in ("config.yaml", *map(str, range(50))):
            (run / name).touch()
    (tmp_path / "study/pipeline.json").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "study/runs/run-1")
    (tmp_path / "endless").symlink_to(tmp_path / "endless")
    asked, stat = [], Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: asked.append(path) or stat(path, **how))
    runs = [tmp_path / "linked", *(tmp_path / f"study/runs/run-{number}" for number in range(3))]
    assert find_runs([tmp_path]) == runs
    assert find_pipelines([tmp_path]) == [tmp_path / "study/pipeline.json"]
    assert len(asked) < 6 * len(runs)


def test_a_folder_without_runs_is_a_mistake_but_for_that_of_a_pipeline_before_its_first(tmp_path):
    for name in ("study", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "study" / PIPELINE_FILE).write_text("{}")
    assert find_runs([tmp_path / "study"]) == []
    assert find_pipelines([tmp_path]) == [tmp_path / "study" / PIPELINE_FILE]
    with pytest.raises(UserError, match="empty is no run folder and holds none; runs appear there when they start"):
        find_runs([tmp_path / "study", tmp_path / "empty"])


@pytest.mark.parametrize(
    ("config", "overrides", "folder"),
    [
        ("configs/pretrain/quickstart.yaml", [], "runs/quickstart/pretrain"),
        ("configs/pretrain/quickstart.yaml", ["run=elsewhere"], "elsewhere"),
        ("configs/data/quickstart_pretrain.yaml", ["train=4"], "data/quickstart-pretrain"),
    ],
)
def test_the_folder_of_a_settings_file(config, overrides, folder):
    assert folder_of(ROOT / config, overrides) == Path(folder)


VERBS = {"data": "output", "pretrain": "run", "finetune": "run", "study": "run", "scaling": "run"}
NAMED = [path.relative_to(ROOT) for room in VERBS for path in sorted((ROOT / "configs" / room).rglob("*.yaml"))]


@pytest.mark.parametrize("path", NAMED, ids=str)
def test_every_settings_file_has_its_folder(path):
    """Also where what tells its kind, or the folder itself, stands in the file that it is based on, or behind it."""
    key = VERBS[path.parts[1]]
    assert folder_of(ROOT / path, [f"{key}=some/where"]) == Path("some/where")
    assert folder_of(ROOT / path, []).parts[0] in {"runs", "data"}


def test_the_kind_of_a_settings_file_may_stand_in_its_base_or_behind_it(tmp_path):
    (tmp_path / "all.yaml").write_text("{run: all, world_sizes: [1, 2], weak: [1], models: [64K]}")
    (tmp_path / "one.yaml").write_text("{base: all.yaml, run: one}")
    (tmp_path / "two.yaml").write_text("{run: two, weak: [1], models: [64K]}")
    assert folder_of(tmp_path / "one.yaml", []) == Path("one")
    assert folder_of(tmp_path / "two.yaml", ["world_sizes=[1]"]) == Path("two")
    for name, words in (("one.yaml", []), ("two.yaml", ["world_sizes=[1]"])):
        prepared = prepare(Request("scaling", (str(tmp_path / name), *words, "--ranks=1")))
        assert prepared.folder == Path(name.removesuffix(".yaml"))


def test_slurm_is_asked_only_for_what_was_submitted(copy, tmp_path):
    """A squeue without its cluster, as on a workstation that has Slurm's programs."""
    (tmp_path / "bin").mkdir()
    squeue = tmp_path / "bin/squeue"
    squeue.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\necho 'squeue: error: failed to fetch config' >&2\nexit 1\n")
    squeue.chmod(0o755)
    words = [sys.executable, "-m", "fmsci", "status", copy]
    environment = clean_environment(PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def told():
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        assert "12 of 12" in done.stdout
        return done.stderr

    assert told() == ""
    assert not (tmp_path / "asked").exists()
    (copy / "slurm_job").write_text("17 0\n")
    assert "Slurm does not answer here (squeue: failed to fetch config)" in told()


def test_the_command(copy):
    said = fmsci(["status", copy, "--json"])
    document = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    (told,), pipelines = document["runs"], document["pipelines"]
    assert pipelines == {}
    found = asdict(run_status(copy, {}))
    age, expected = told.pop("checkpoint_age_s"), found.pop("checkpoint_age_s")
    assert age == pytest.approx(expected, abs=60)
    assert told == found
    path = ROOT / "configs/pretrain/quickstart.yaml"
    assert fmsci(["status", "--path", path, "run=a/b", "--test"]) == "a/b\n"
    assert "there is no option --bogus" in fmsci(["status", copy, "--bogus"], code=2)
