"""A part of tools/fuzz and tools/soak.py; their whole runs are in docs/reliability.md."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import clean_environment

TOOLS = Path(__file__).parents[1] / "tools"


def tool(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(TOOLS / name), *arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    return done.stdout


@pytest.mark.slow
def test_broken_files_are_refused_in_one_sentence():
    printed = tool("fuzz", "--cases", "40")
    assert printed.count("all as they should") == 7
    refused = [int(row.split("|")[4].replace(",", "")) for row in printed.splitlines() if "all as" in row]
    assert min(refused) >= 5, "the cases change too little to be refused"


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits():
    printed = tool("soak.py", "--steps", "120", "--kills", "3")
    assert "killed 3 times" in printed
    assert "same bits" in printed
