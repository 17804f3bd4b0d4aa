"""Small jobs on a real cluster that ask one thing of the scripts of slurm/, or of a submission, each."""

import re

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]

STEP = """#!/bin/bash
#SBATCH --open-mode=append
{before}
. slurm/env.sh
{behind}
prepare ''
step bash -c 'trap "" TERM; trap "{heard}" USR2; echo listening; while :; do sleep 1 & wait; done'
settle
"""
"""Slurm tells every process of a step: where the sleep hears of it first, the shell must not end with it."""

STOPPED = {
    "cancelled while it saves": (
        "",
        "",
        "until [ -e told ]; do sleep 0.2; done; exit 75",
        ["USR2", "TERM"],
        "stopped by TERM: Slurm requeues a preempted job by itself, a cancelled one ends",
    ),
    "out of time while it saves": (
        "SLURM_JOB_END_TIME=$(date +%s)",
        "",
        "until [ -e told ]; do sleep 0.2; done; exit 75",
        ["USR2", "TERM"],
        "saved: requeued to continue",
    ),
    "the same restart of a generation that has made nothing": (
        "SLURM_RESTART_COUNT=1",
        "data=$PWD/none",
        "exit 75",
        ["USR2"],
        "this restart came no further than 0 shards: not requeued",
    ),
    "the same restart of what makes no data, in a shell that has a variable of that name": (
        "export data=$PWD/none SLURM_RESTART_COUNT=1",
        "",
        "exit 75",
        ["USR2"],
        "saved: requeued to continue",
    ),
    "failed when it was to stop": ("", "", "exit 1", ["USR2"], "failed with exit code 1: not requeued"),
    "killed by the signal": ("", "", "trap - USR2; kill -USR2 $BASHPID", ["USR2"], "stopped: requeued to continue"),
}
"""What stands before the prologue and behind it, what the step does at USR2, the signals it gets, its last words."""


def test_how_a_stopped_job_ends(cluster):
    """All at a time, each on some cores of a node."""
    jobs = {}
    for name, (before, behind, heard, _, _) in STOPPED.items():
        path = cluster.folder / f"{name}.sbatch"
        path.write_text(STEP.format(before=before, behind=behind, heard=heard))
        jobs[name] = cluster.sbatch(path, nodes=1)
    for name, job in jobs.items():
        cluster.wait_for(f"the step that is {name}", lambda job=job: "listening" in cluster.log(job))
        for signal in STOPPED[name][3]:
            cluster.login("scancel", "--batch", f"--signal={signal}", job)
            cluster.wait_for(signal, lambda job=job, signal=signal: f"received {signal}" in cluster.log(job))
    (cluster.folder / "told").touch()  # however long a busy machine took to say both, the save lasts until then
    for name, job in jobs.items():
        words = STOPPED[name][4]
        cluster.wait_for(words, lambda job=job, words=words: words in cluster.log(job), 30)
        if "requeued to continue" in words:
            cluster.wait_for(f"a second start of what is {name}", lambda job=job: cluster.restarts(job) == 1, 30)
        else:
            cluster.wait_for(f"the end of what is {name}", lambda job=job: cluster.states(job) == {"FAILED"}, 30)
        cluster.login("scancel", job)


LOST = """#!/bin/bash
#SBATCH --open-mode=append
. slurm/env.sh
prepare "$PWD/lost-run"
step bash -c 'echo "  \\"status\\": \\"lost\\"," >lost-run/outcome.json; exit 1'
settle "$PWD/lost-run"
"""


def test_a_rank_whose_node_is_there_is_lost_so_often_and_no_more(cluster):
    """Slurm has nothing to notice: the job script requeues the job itself, and not again where that was in vain."""
    path = cluster.folder / "lost.sbatch"
    path.write_text(LOST)
    job = cluster.sbatch(path, nodes=1, FMSCI_NODE_WAIT=1)
    assert cluster.ended(job, 60) == "FAILED"
    told = [
        "start 0 of",
        "waiting up to 1 s for Slurm",
        "lost: requeued to continue",
        "start 1 of",
        "no further than step 0",
    ]
    places = [cluster.log(job).find(words) for words in told]
    assert -1 not in places
    assert places == sorted(places)
    assert (cluster.folder / "lost-run" / "slurm_job").read_text() == f"{job} 1\n"


EARLY = """#!/bin/bash
#SBATCH --open-mode=append
. slurm/env.sh
data=$(kill -USR2 $$; fmsci generate configs/data/quickstart_pretrain.yaml output=early --path) || exit
prepare ''
{step} fmsci generate configs/data/quickstart_pretrain.yaml output=early
settle
"""


def test_a_job_that_is_stopped_before_its_step_has_finished_nothing(cluster):
    """The signal comes while the job asks for the folder of its data."""
    jobs = {}
    for step in ("step", "mpi_step"):
        path = cluster.folder / f"early-{step}.sbatch"
        path.write_text(EARLY.format(step=step))
        jobs[step] = cluster.sbatch(path, nodes=1)
    for job in jobs.values():
        cluster.wait_for("the end of it", lambda job=job: "saved: requeued to continue" in cluster.log(job), 60)
        assert "received USR2" in cluster.log(job).partition("start 0 of")[0]
        assert "finished" not in cluster.log(job)
        cluster.wait_for("its second start", lambda job=job: cluster.restarts(job) == 1, 30)
        cluster.login("scancel", job)
    assert not (cluster.folder / "early").exists()


IN_USE = """#!/bin/bash
. slurm/env.sh
mkdir -p "$run"
exec 7>"$run/.lock"
flock 7
prepare "$run"
step bash -c 'echo "  \\"status\\": \\"{other}\\"," >"$run/outcome.json"; exit {code}'
settle "$run"
"""


def test_a_job_that_is_kept_out_by_a_lock_does_not_end_as_the_other_one_does(cluster):
    """The other job, whose lock this is, saves or finishes meanwhile."""
    cases = {("saved", 2): "FAILED", ("finished", 2): "FAILED", ("finished", 0): "COMPLETED"}
    jobs = {}
    for other, code in cases:
        path = cluster.folder / f"in-use-{other}-{code}.sbatch"
        path.write_text(IN_USE.format(other=other, code=code))
        jobs[other, code] = cluster.sbatch(path, nodes=1, run=cluster.folder / path.stem)
    for case, state in cases.items():
        assert cluster.ended(jobs[case], 60) == state, cluster.log(jobs[case])
        if state == "FAILED":
            assert "failed with exit code 2: not requeued" in cluster.log(jobs[case])
            assert "requeued to continue" not in cluster.log(jobs[case])


def test_tasks_are_counted_for_the_whole_job_too(cluster):
    path = cluster.folder / "tasks.sbatch"
    path.write_text("#!/bin/bash\n. slurm/env.sh\nstep hostname\nsettle\n")
    even, odd = (
        cluster.login("sbatch", "--parsable", *options, "--output=%j.log", path).strip()
        for options in (["--nodes=2", "--ntasks=16"], ["--nodes=2", "--ntasks=3"])
    )
    assert cluster.ended(even) == "COMPLETED", cluster.log(even)
    assert re.findall(r"^node\d$", cluster.log(even), re.MULTILINE).count("node2") == 8
    assert cluster.ended(odd) == "FAILED"
    assert "3 tasks lie unevenly on 2 nodes" in cluster.log(odd)


def test_torchrun_is_no_launcher_of_mpi(cluster):
    words = ["configs/data/quickstart_pretrain.yaml", "output=never-made"]
    job = cluster.sbatch("slurm/generate.sbatch", *words, nodes=1, FMSCI_LAUNCH="torchrun")
    assert cluster.ended(job) == "FAILED"
    assert "the ranks of fmsci generate speak MPI, which torchrun does not start" in cluster.log(job)
    assert not (cluster.folder / "never-made").exists()


def test_a_dry_run_asks_slurm_and_leaves_nothing(cluster, train_config):
    words = ["fmsci", "submit", "pretrain", train_config, "run=dry", "--site", "local", "--dry-run"]
    said = cluster.login(*words, "--nodes", "2").splitlines()
    assert said[0] == "#!/bin/bash"
    assert "#SBATCH --nodes=2" in said
    assert re.fullmatch(
        r"# Slurm: Job \d+ to start at \S+ using \d+ processors on nodes node\[1-2\] in partition main", said[-1]
    )
    refused = cluster.login(*words, "--sbatch=--partition=nope", code=2).splitlines()
    assert refused[-1] == "fmsci: Slurm refused the job: invalid partition specified: nope"
    (cluster.folder / "dry.yaml").write_text("{run: dry-scaling, world_sizes: [1, 2], weak: [1], models: [64K]}")
    words = ["fmsci", "submit", "scaling", "dry.yaml", "--site", "local", "--dry-run"]
    said = cluster.login(*words)
    assert said.count("#!/bin/bash") == 3
    assert len(re.findall(r"would be submitted.*; Slurm: Job \d+ to start at", said)) == 3
    assert "fmsci: 1 ranks: Slurm refused the job: invalid" in cluster.login(
        *words, "--sbatch=--partition=nope", code=2
    )
    assert cluster.login("squeue", "--noheader", "--states=all", "--name=pretrain,scaling", "--states=PD,R") == ""
    assert not (cluster.folder / "dry").exists()
    assert not (cluster.folder / "dry-scaling").exists()
