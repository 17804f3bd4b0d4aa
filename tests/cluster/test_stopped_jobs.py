"""Jobs that end before their time, on a real cluster: saved and continued, by whom and how often."""

import json
import re
import shutil

import pytest

from fmsci.config import StudySettings, TrainSettings, load_settings
from fmsci.study.plan import plan
from tests.cluster.run_folders import LONG, continued_after, losses, result, steps
from tests.commands import run as fmsci
from tests.conftest import TRAINING

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm-stopped")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, train_config):
    """The 300 steps of LONG in one process that nothing stops."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    fmsci(["train", train_config, f"run={folder}", *TRAINING, *LONG])
    return folder


def test_a_job_that_is_out_of_time_saves_and_continues(cluster, run, train_config):
    """Slurm itself sends the signal, some time before the limit of one minute; the run has work for longer.

    Meanwhile the other launchers' jobs get the same signal from us.
    """
    words = [train_config, *TRAINING, *LONG, "optim.epochs=9999"]
    runs = {name: run / name for name in ("srun", "torchrun", "mpiexec")}
    jobs = {}
    for name in runs:
        limits = ["--time=1", "--signal=B:USR2@35"] if name == "srun" else ["--time=10"]
        script = [*limits, "slurm/finetune.sbatch", *words, f"run={runs[name]}"]
        jobs[name] = cluster.sbatch(*script, FMSCI_LAUNCH=name)
        cluster.reached(runs[name], 1)
        if name != "srun":
            cluster.login("scancel", "--batch", "--signal=USR2", jobs[name])
    for name, job in jobs.items():
        cluster.wait_for(f"the second start under {name}", lambda job=job: "continuing" in cluster.log(job))
        log = cluster.log(job)  # one file, from the first line on
        saved = int(re.findall(r"interrupted: .*saved after step (\d+) of", log)[0])
        told = ["start 0 of", "received USR2", "saved: requeued", "start 1 of", f"continuing {runs[name]} after step"]
        assert [log.index(words) for words in told] == sorted(log.index(words) for words in told)
        assert f"continuing {runs[name]} after step {saved}\n" in log
        cluster.reached(runs[name], saved + 1)
        cluster.login("scancel", job)
        assert re.fullmatch(rf"{job} [1-9]\n", (runs[name] / "slurm_job").read_text())
        found = steps(runs[name])
        assert found == list(range(1, len(found) + 1))
    assert {cluster.ended(job) for job in jobs.values()} == {"CANCELLED"}


def test_a_task_of_an_array_is_stopped_and_requeued_alone(cluster, run, trained, train_config):
    """A study of a run that is fine-tuned and one from scratch; the first is stopped, and goes on from where it was."""
    run.mkdir()
    overrides = [word for word in [*TRAINING, *LONG] if not word.startswith("optim.epochs")]
    study = {"study": "q1", "run": str(run), "models": {"m": {"folder": str(trained / "model")}}}
    study |= {"tasks": {"t": str(load_settings(TrainSettings, train_config).data.path)}, "train": str(train_config)}
    (run / "study.yaml").write_text(json.dumps(study | {"samples": [10], "steps": 300, "overrides": overrides}))
    tuned, scratch = (one.folder for one in plan(load_settings(StudySettings, run / "study.yaml")).sweep)
    array = cluster.sbatch("--array=0-1", "--output=%A_%a.log", "slurm/study.sbatch", run / "study.yaml", nodes=1)
    cluster.reached(tuned, 30)
    cluster.login("scancel", "--batch", "--signal=USR2", f"{array}_0")
    assert cluster.ended(array) == "COMPLETED", cluster.log(f"{array}_0") + cluster.log(f"{array}_1")
    for words in ("received USR2", "saved: requeued", "start 1 of study", "continuing"):
        assert words in cluster.log(f"{array}_0")
        assert words not in cluster.log(f"{array}_1")
    assert steps(tuned) == steps(scratch) == list(range(1, 301))


def test_a_step_that_could_not_start_yet_hears_of_the_stop_too(cluster):
    """Its cores are taken for a while by another step of the job: when the signal comes, there is nobody to tell."""
    script = """#!/bin/bash
. slurm/env.sh
srun --ntasks=1 --cpus-per-task=1 env --ignore-signal=USR2 sleep 4 & sleep 1
step bash -c 'trap "echo told; exit 75" USR2; while :; do sleep 1 & wait; done'
echo "the step ended with $code"
"""
    path = cluster.folder / "busy.sbatch"
    path.write_text(script)
    job = cluster.sbatch(path, nodes=1)
    cluster.wait_for("the wait", lambda: "step creation temporarily disabled" in cluster.log(job), 20)
    cluster.login("scancel", "--batch", "--signal=USR2", job)
    assert cluster.ended(job, 40) == "COMPLETED"
    log = cluster.log(job)
    assert log.index("received USR2") < log.index("told") < log.index("the step ended with 75")


def test_a_more_urgent_job_takes_the_place_and_gives_it_back(cluster, run, train_config):
    job = cluster.sbatch("--exclusive", "slurm/pretrain.sbatch", train_config, f"run={run}", *TRAINING, *LONG)
    after = cluster.sbatch(f"--dependency=afterok:{job}", "--wrap", "hostname", nodes=1)
    cluster.reached(run, 30)
    urgent = cluster.sbatch("--partition=urgent", "--exclusive", "--wrap", "hostname")
    assert cluster.ended(urgent, 60) == "COMPLETED"
    outcome = json.loads((run / "outcome.json").read_text())
    assert outcome["status"] == "saved"
    assert cluster.states(after) == {"PENDING"}  # what waits for the job waits for its second start
    assert cluster.ended(job) == "COMPLETED", cluster.log(job)
    assert "received USR2" in cluster.log(job)
    continued_after(cluster.log(job), run, outcome["step"])
    assert cluster.ended(after) == "COMPLETED"
    assert steps(run) == list(range(1, 301))
    assert result(run)["steps"] == 300


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_node_is_done_without(cluster, run, train_config, undisturbed, lost):
    """The power of a node fails: Slurm requeues, and the run continues on the other from its newest checkpoint.

    Node1 is the one where rank 0 and the job script itself run: all that is left of them is what they have written.
    Where it is node2 the run hears of it long before Slurm does, and the job script waits for that.
    """
    words = [train_config, f"run={run}", *TRAINING, *LONG, "engine.timeout_s=12"]
    # srun would wait five minutes for a task of which it hears nothing more: as long as Slurm itself, on many sites.
    submit = ["fmsci", "submit", "pretrain", *words, "--site", "local", "--nodes", "1-2"]
    said = cluster.login(*submit, FMSCI_SRUN_ARGS="--wait=2")
    job = said.split(":")[0].removeprefix("job ")
    log = run / f"slurm-{job}.log"
    assert said.splitlines()[0] == f"job {job}: script {run}/pretrain.sbatch, log {log}"
    assert f"watch it: tail -F {log} " in said
    assert "--nodes=1-2" in (run / "pretrain.sbatch").read_text()
    cluster.reached(run, 60)
    assert cluster.tool("kill-node", lost).returncode == 0
    node = f"node{lost}"
    try:
        if lost == 2:
            cluster.wait_for("the wait for Slurm", lambda: "lost a rank: waiting up to 600 s" in log.read_text(), 120)
            outcome = json.loads((run / "outcome.json").read_text())
            assert (outcome["status"], "rank 1 on node2" in outcome["why"]) == ("lost", True)
            assert cluster.states(job) == {"RUNNING"}
        cluster.login("scontrol", "update", f"nodename={node}", "state=down", "reason=power")
        assert cluster.ended(job) == "COMPLETED", log.read_text()
    finally:
        assert cluster.tool("restore-node", lost).returncode == 0
        cluster.wait_for(node, lambda: "idle" in cluster.login("sinfo", "-h", "-n", node, "-p", "main", "-o", "%T"))
    assert "start 0 of pretrain on node[1-2]" in log.read_text()
    assert f"start 1 of pretrain on node{3 - lost}," in log.read_text()
    continued_after(log.read_text(), run, 50)  # saved every 25 steps, and the node was there after 60
    assert result(run)["world_size"] == 1
    assert steps(run) == list(range(1, 301))
    assert losses(run) == pytest.approx(losses(undisturbed), rel=1e-4)  # the same global batches


def test_a_cancelled_job_saves_and_stays_cancelled(cluster, run, train_config):
    """Meanwhile a second job for the same run is refused, and leaves no trace of itself there."""
    words = [train_config, f"run={run}", *TRAINING, *LONG, "optim.epochs=9999"]
    job = cluster.sbatch("slurm/pretrain.sbatch", *words, nodes=1)
    cluster.reached(run, 30)
    (told,) = json.loads(cluster.login("fmsci", "status", run, "--json").splitlines()[-1])["runs"]
    assert (told["state"], told["job"], told["restarts"], told["steps"]) == ("RUNNING", job, 0, 29997)
    assert told["step"] >= 30
    second = cluster.sbatch("slurm/pretrain.sbatch", *words, nodes=1)
    assert cluster.ended(second) == "FAILED"
    assert f"another process is training in {run}" in cluster.log(second)
    assert (run / "slurm_job").read_text() == f"{job} 0\n"
    assert cluster.states(job) == {"RUNNING"}
    cluster.login("scancel", job)
    assert cluster.ended(job) == "CANCELLED"
    assert json.loads((run / "outcome.json").read_text())["status"] == "saved"


def test_where_nothing_is_requeued_a_chain_continues(cluster, train_config, run):
    """Three jobs of one name: the first is stopped, the second finishes, the third finds nothing to do.

    Under torchrun, which makes 1 of every exit code: the scripts go by what stands in the run folder.
    """
    run = run / "with a blank"
    site = cluster.folder / "chain.yaml"
    site.write_text("gpu_nodes: {cores: 1}\nrequeue: false\nmpi: pmi2\n")
    words = [train_config, f"run={run}", *TRAINING, *LONG]
    command = ["fmsci", "submit", "pretrain", *words, "--site", site, "--chain", "3", "--time", "10"]
    said = cluster.login(*command, FMSCI_LAUNCH="torchrun")
    jobs = said.split(":")[0].removeprefix("job ").split(", ")
    assert len(jobs) == 3
    cluster.reached(run, 30)
    cluster.login("scancel", "--batch", "--signal=USR2", jobs[0])
    assert [cluster.ended(job) for job in jobs] == ["FAILED", "COMPLETED", "COMPLETED"]
    logs = [(run / f"slurm-{job}.log").read_text() for job in jobs]
    assert "saved after step" in logs[0]
    assert "saved: submit the same job again to continue" in logs[0]
    assert "continuing" in logs[1]
    assert "is finished already" in logs[2]
    assert steps(run) == list(range(1, 301))


STOPS_AT_ONCE = """#!/bin/bash
if [ "$1" = train ]; then scancel --batch --signal=USR2 "$SLURM_JOB_ID"; sleep 60; fi
exec {fmsci} "$@"
"""


def test_a_restart_without_progress_is_the_last(cluster, run, train_config):
    """A script that is stopped whenever it starts would be requeued for ever."""
    folder = cluster.folder / "stops at once"
    folder.mkdir()
    command = folder / "fmsci"
    command.write_text(STOPS_AT_ONCE.format(fmsci=shutil.which("fmsci")))
    command.chmod(0o755)
    words = [train_config, f"run={run}", *TRAINING, *LONG, "optim.epochs=9999"]
    job = cluster.sbatch("slurm/pretrain.sbatch", *words, nodes=1, PATH=f"{folder}:{cluster.environment['PATH']}")
    assert cluster.ended(job) == "FAILED"
    assert "start 1 of" in cluster.log(job)
    assert "this restart came no further than step 0: not requeued" in cluster.log(job)


def test_a_job_is_restarted_so_often_and_no_more(cluster, run, train_config):
    words = [train_config, f"run={run}", *TRAINING, *LONG, "optim.epochs=9999"]
    job = cluster.sbatch("slurm/pretrain.sbatch", *words, nodes=1, FMSCI_MAX_RESTARTS=0)
    cluster.wait_for("the start", lambda: "start 0 of" in cluster.log(job))
    cluster.login("scancel", "--batch", "--signal=USR2", job)
    assert cluster.ended(job) == "FAILED"
    words = "(saved|stopped), but restarted 0 times already: submit it again, or raise FMSCI_MAX_RESTARTS"
    assert re.search(words, cluster.log(job))
