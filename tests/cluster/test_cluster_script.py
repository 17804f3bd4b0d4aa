"""tools/slurm_cluster.sh on machines that cannot have a cluster: its exit code says which kind of cannot it is."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "slurm_cluster.sh"
TOOLS = ("basename", "bash", "env", "dirname", "id", "cat", "grep", "ls", "mkdir", "rm", "tail", "touch", "flock")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gets as far as installing")


@pytest.mark.parametrize(
    ("apt", "code", "sentence"),
    [
        (None, 2, "Slurm is not installed, and there is no apt-get to install it with"),
        (
            "echo E: no network; exit 100",
            3,
            "slurm-client munge iproute2: E: no network",
        ),
        ("exit 0", 3, "do not bring all of slurmctld, slurmd"),
    ],
)
def test_what_cannot_be_is_told_from_what_went_wrong(tmp_path, apt, code, sentence):
    """The tests of the cluster are skipped for the first kind only."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in TOOLS:
        (programs / name).symlink_to(shutil.which(name))
    if apt is not None:
        (programs / "apt-get").write_text(f"#!/bin/bash\n{apt}\n")
        (programs / "apt-get").chmod(0o755)
    environment = {"PATH": str(programs), "FMSCI_SLURM_STATE": str(tmp_path / "state")}
    done = subprocess.run([SCRIPT, "up"], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
