"""A real Slurm cluster for tests: brought up by tools/slurm_cluster.sh, and spoken to through its login node."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import clean_environment

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "slurm_cluster.sh"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}


class Cluster:
    """The cluster as its login node sees it; jobs are submitted from a folder that its nodes share."""

    def __init__(self, folder, state, share, nodes):
        self.folder = folder
        self.environment = clean_environment(
            FMSCI_SLURM_STATE=str(state),
            FMSCI_SLURM_NODES=str(nodes),
            # The nodes have a /tmp of their own: what the tests write below it must be named to be shared.
            FMSCI_SLURM_SHARE=f"{ROOT} {share}",
            PYTHONFAULTHANDLER="1",
            FMSCI_DOCTOR="no",  # it has a test of its own
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            PYTHONPATH=str(ROOT),
        )

    def tool(self, *arguments, timeout=120):
        """Run tools/slurm_cluster.sh."""
        return subprocess.run(
            [SCRIPT, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def login(self, *command, code=0, **environment):
        """Run a command on the login node, whose exit code must be ``code``; return what it printed."""
        words = [f"{name}={value}" for name, value in environment.items()]
        done = self.tool("login", "env", *words, *command)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def sbatch(self, *arguments, nodes=2, **environment):
        """Submit a job of one task a node and return its id. Its log is JOB.log."""
        options = ["--parsable", f"--nodes={nodes}", "--ntasks-per-node=1", "--cpus-per-task=1", "--output=%j.log"]
        return self.login("sbatch", *options, *arguments, **environment).strip()

    def states(self, job):
        """Return the states of a job, or of an array's tasks."""
        return set(
            self.login("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T").split()
        )

    def restarts(self, job):
        """How often Slurm has requeued a job. (That it waits for its next start is seen for some seconds only.)"""
        return int(re.search(r" Restarts=(\d+)", self.login("scontrol", "show", "job", job))[1])

    def wait_for(self, what, condition, seconds=180):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come within {seconds} s; {self.tool('status').stdout}"
            time.sleep(0.2)

    def ended(self, job, seconds=180):
        """Wait until a job has ended and return its state; MIXED where an array's tasks ended differently."""
        self.wait_for(f"the end of job {job}", lambda: self.states(job) <= ENDED, seconds)
        return next(iter(self.states(job))) if len(self.states(job)) == 1 else "MIXED"

    def log(self, job):
        path = self.folder / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def reached(self, run, step):
        """Wait until a run has written the entry of a step."""
        path = run / "metrics.jsonl"

        def there():
            found = re.findall(r'^\{"step": (\d+)', path.read_text(), re.MULTILINE) if path.exists() else []
            return bool(found) and int(found[-1]) >= step

        self.wait_for(f"step {step} of {run}", there)


def job_of(said):
    """Return the job of a link, from what a submission says of it."""
    return said.partition("as job ")[2].split(",")[0]


def like_a_checkout(folder):
    """Give a folder what jobs look for where they are submitted."""
    for name in ("slurm", "configs"):
        (folder / name).symlink_to(ROOT / name)


@contextmanager
def started(folder, state, share, nodes=2):
    """A cluster from ``up`` to ``down``, whose jobs are submitted from a folder; skipped where there can be none."""
    like_a_checkout(folder)
    state = ROOT / "build" / state
    cluster = Cluster(folder, state, share, nodes)
    up = cluster.tool("up", timeout=300)
    if up.returncode == 2 or (up.returncode == 3 and os.environ.get("FMSCI_SLURM_OPTIONAL") == "yes"):
        pytest.skip(up.stderr.strip())  # 3 is a mishap, not a property of this machine: the tests are not to be missed
    assert up.returncode == 0, up.stderr
    try:
        yield cluster
    finally:
        assert cluster.tool("down").returncode == 0
    assert not state.exists()
    assert shutil.which("sbatch") is not None
