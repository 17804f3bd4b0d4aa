"""Data folders made by real commands."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

MPIEXEC = Path(sys.executable).parent / "mpiexec"
SMALL = ["system=poisson", "range=[1,5]", "grid=16", "train=37", "valid=9", "test=8", "shard_samples=8"]


def clean_environment():
    """Return the environment without traces of a launcher, one thread per process."""
    dropped = ("PMI_", "OMPI_", "SLURM_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return kept | {"OMP_NUM_THREADS": "1"}


def command(arguments, ranks=None):
    launcher = [] if ranks is None else [str(MPIEXEC), "-n", str(ranks)]
    return [*launcher, sys.executable, "-m", "fmsci", *map(str, arguments)]


def run(arguments, ranks=None, code=0):
    """Run ``fmsci ARGUMENTS`` under so many ranks and return what it printed; its exit code must be ``code``."""
    done = subprocess.run(
        command(arguments, ranks), env=clean_environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def contents(folder):
    """Return a hash of every shard and everything in the manifest except when and by what it was made."""
    shards = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.h5")}
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("provenance")
    assert not list(folder.rglob(".aside-*"))
    return shards, manifest
