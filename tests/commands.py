"""Start real fmsci commands, alone or on several ranks, as a user does."""

import os
import subprocess
import sys
from pathlib import Path

MPIEXEC = Path(sys.executable).parent / "mpiexec"


def clean_environment(**changes):
    """Return the environment without traces of a launcher, one thread per process."""
    dropped = ("PMI_", "OMPI_", "SLURM_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return kept | {"OMP_NUM_THREADS": "1"} | changes


def command(arguments, ranks=None):
    launcher = [] if ranks is None else [str(MPIEXEC), "-n", str(ranks)]
    return [*launcher, sys.executable, "-m", "fmsci", *map(str, arguments)]


def run(arguments, ranks=None, code=0, cwd=None):
    """Run ``fmsci ARGUMENTS`` under so many ranks and return what it printed; its exit code must be ``code``."""
    done = subprocess.run(
        command(arguments, ranks),
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr
