"""A part of tools/fault_matrix.py, whose whole table is in docs/reliability.md."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import clean_environment

TOOL = Path(__file__).parents[1] / "tools" / "fault_matrix.py"


def matrix(*chosen):
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, chosen)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.distributed
@pytest.mark.mpi
def test_a_full_disk_while_saving_and_while_generating_loses_nothing():
    chosen = ["--engine", "ddp", "--moment", "save", "--fault", "disk-full"]
    done = matrix(*chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    if "not run: needs root" in done.stdout:
        pytest.skip("mounting a small file system is not allowed here")
    assert done.stdout.count("same bits") == 2
    assert "| generate | disk-full | same bits |" in done.stdout
    assert "| save | disk-full | same bits |" in done.stdout


@pytest.mark.distributed
def test_zero_is_stopped_inside_a_validation_and_damaged_and_a_second_call_repeats_nothing(tmp_path):
    record = tmp_path / "cells.json"
    chosen = ["--engine", "zero3", "--moment", "validate", "--fault", "term", "damaged", "--no-generation"]
    assert matrix(*chosen, "--record", record, "--minutes", 0).returncode == 75  # no cell is reached
    done = matrix(*chosen, "--record", record)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same bits") == 2
    again = matrix(*chosen, "--record", record, "--minutes", 0)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert again.stderr == ""
