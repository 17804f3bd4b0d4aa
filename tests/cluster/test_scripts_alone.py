"""What the scripts of slurm/ do where the commands that they call are pretended: no cluster is needed."""

import os
import subprocess
from pathlib import Path

import pytest

SLURM = Path(__file__).parents[2] / "slurm"
JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "trial",
    "SLURM_JOB_NODELIST": "node1",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_CPUS_ON_NODE": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURMD_NODENAME": "node1",
    "FMSCI_SLURM": str(SLURM),
}
COMMANDS = {
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "scancel": "",
    "scontrol": 'echo "scontrol $*"',
    "fmsci": "",
}


@pytest.fixture
def job(tmp_path):
    """Return a function that runs a script as a job would, with commands of the test's own, and gives its log."""

    def run(script, *arguments, commands=(), **environment):
        programs = tmp_path / "bin"
        programs.mkdir()
        for name, text in (COMMANDS | dict(commands)).items():
            (programs / name).write_text(f"#!/bin/bash\n{text}\n")
            (programs / name).chmod(0o755)
        path = script if isinstance(script, Path) else tmp_path / "job.sbatch"
        if path != script:
            path.write_text(f'#!/bin/bash\n. "$FMSCI_SLURM/env.sh"\n{script}\n')
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "FMSCI"))}
        environment = kept | JOB | environment | {"PATH": f"{programs}:{os.environ['PATH']}"}
        with (tmp_path / "log").open("w") as log:  # no pipe: what a job leaves running would hold it open
            command = ["bash", path, *arguments]
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, stdout=log, stderr=log, timeout=60, check=False
            )
        return done.returncode, (tmp_path / "log").read_text()

    return run


def test_how_far_a_run_has_come_is_told_beyond_the_eight_digits_of_a_checkpoints_name(job, tmp_path):
    for step in ("step-99999990", "step-100000000", ".aside-step-100000010-node1-7"):
        (tmp_path / "run/checkpoints" / step).mkdir(parents=True)
    assert job("progress run\nexit 0") == (0, "step 100000000\n")


def test_torchrun_does_not_die_of_the_signal_for_its_workers(job):
    """With the env of coreutils 8.30, as RHEL 8 has it."""
    commands = {
        "env": 'echo "env: unrecognized option $1"; exit 125',
        "torchrun": 'grep SigIgn /proc/self/status; printf "<%s>" "$@"',
    }
    code, log = job("step fmsci train 'a b' run=x\nsettle", commands=commands, FMSCI_LAUNCH="torchrun")
    assert code == 0, log
    (ignored,) = [int(line.split()[1], 16) for line in log.splitlines() if line.startswith("SigIgn")]
    assert ignored & 1 << 11  # USR2 is 12
    assert "<--nproc-per-node=2>" in log
    assert "<-m><fmsci><train><a b><run=x>" in log


ZERO_SHOT = """
[ "$1" = study ] || echo "fmsci $*"
case $1 in
study) printf '%s\\n' evaluate models/m --data data --output study/runs/zero-shot/m.json ;;
evaluate) exit 75 ;;
esac
"""


@pytest.mark.parametrize(("restarts", "ends"), [(2, False), (3, True)])
def test_a_zero_shot_error_begins_again_three_times_at_most(job, tmp_path, restarts, ends):
    (tmp_path / "study").mkdir()
    given = {"SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": "0", "SLURM_RESTART_COUNT": str(restarts)}
    code, log = job(SLURM / "study.sbatch", "study.yaml", "--stage=zero-shot", commands={"fmsci": ZERO_SHOT}, **given)
    assert "fmsci doctor --folder . --folder study\n" in log  # what is there of the way to the result
    assert "fmsci evaluate models/m --data data --output study/runs/zero-shot/m.json\n" in log
    assert ("restarted 3 times already: submit it again" in log, code) == (ends, int(ends))
    assert ("scontrol requeue 16_0" in log) == (not ends)


STOPS = """
if [ "$1" = "$stopped" ]; then kill -USR2 "$PPID"; sleep 0.3; exit 75; fi
"""
"""Stopped in one of the steps: the batch script is the parent of each."""


@pytest.mark.parametrize(("step", "words"), [("doctor", "stopped: requeued"), ("train", "came no further than step 0")])
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_start_that_never_came_to_its_work_does_not_count(job, step, words, restarts):
    script = "prepare run\nstep fmsci train\nsettle run"
    given = {"stopped": step, "SLURM_RESTART_COUNT": str(restarts)}
    code, log = job(script, commands={"fmsci": STOPS}, **given)
    assert "received USR2" in log
    assert (words if restarts else "stopped: requeued to continue") in log
    assert ("scontrol requeue 17" in log) == (code == 0)
