"""A part of tools/fault_matrix.py, whose whole table is in docs/reliability.md."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import clean_environment

TOOL = Path(__file__).parents[1] / "tools" / "fault_matrix.py"


@pytest.mark.distributed
@pytest.mark.mpi
def test_a_full_disk_while_saving_and_while_generating_loses_nothing():
    chosen = ["--engine", "ddp", "--moment", "save", "--fault", "disk-full"]
    done = subprocess.run(
        [sys.executable, str(TOOL), *chosen],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "not run: needs root" in done.stdout:
        pytest.skip("mounting a small file system is not allowed here")
    assert done.stdout.count("same bits") == 2
    assert "| generate | disk-full | same bits |" in done.stdout
    assert "| save | disk-full | same bits |" in done.stdout
