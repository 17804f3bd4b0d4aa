"""Slurm's commands pretended by small scripts: what is sent to them, and how many jobs they take, without a cluster."""

import os

import pytest

SBATCH = """#!/bin/bash
case " $* " in *" --test-only "*) echo "sbatch: Job 1 to start at some time" >&2; exit 0 ;; esac
job=$(($(wc -l <{state}/sent) + 1))
if [ "$job" -gt "$(cat {state}/most)" ]; then
    echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2
    exit 1
fi
echo "$*" >>{state}/sent
echo "$job|$job|PENDING|Dependency|9:00" >>{state}/queue
echo "$job"
"""
SQUEUE = """#!/bin/bash
if [ -e {state}/down ]; then echo "squeue: error: unable to contact slurm controller" >&2; exit 1; fi
cat {state}/queue
"""


class Pretended:
    """A Slurm that takes so many jobs and starts none."""

    def __init__(self, state):
        self.state = state
        for name in ("sent", "queue"):
            (state / name).touch()
        self.takes(1000)

    def takes(self, most):
        (self.state / "most").write_text(str(most))

    @property
    def sent(self):
        """The options of each job that was taken, in order."""
        return [line.split() for line in (self.state / "sent").read_text().splitlines()]

    def becomes(self, job, state):
        queue = (self.state / "queue").read_text()
        (self.state / "queue").write_text(queue.replace(f"{job}|{job}|PENDING|", f"{job}|{job}|{state}|"))

    def is_down(self):
        (self.state / "down").touch()


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """Commands of a pretended Slurm, before those of this machine."""
    state = tmp_path_factory.mktemp("slurm")
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE)):
        (state / name).write_text(text.format(state=state))
        (state / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{state}:{os.environ['PATH']}")
    return Pretended(state)
