"""Nothing of the environment gets into run folders, data folders, job scripts or logs, but for a documented list."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import MPIEXEC, clean_environment
from tests.conftest import TRAINING

ROOT = Path(__file__).parents[1]
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-7d1f",
    "HF_TOKEN": "planted-hf-2c9a",
    "WANDB_API_KEY": "planted-wandb-88e0",
    "SLURM_JWT": "planted-jwt-41b3",
    "DATABASE_PASSWORD": "planted-db-5e6d",
    "HTTPS_PROXY": "http://me:planted-proxy-90aa@localhost:9",
    "SSH_AUTH_SOCK": "/tmp/planted-ssh-3f21",
    "PS1": "planted-prompt-1c2d",
}
VALUES = re.compile(rb"planted-\w+-\w{4}")


def fmsci(place, *arguments, ranks=None, code=0):
    launcher = [] if ranks is None else [MPIEXEC, "-n", ranks]
    done = subprocess.run(
        [str(word) for word in (*launcher, sys.executable, "-m", "fmsci", *arguments)],
        cwd=place,
        env=clean_environment(**PLANTED),
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert code in (None, done.returncode), done.stderr.decode()
    assert not VALUES.search(done.stdout + done.stderr), "a planted value was printed"
    return done.stdout


def leaks(place):
    """Return the files that hold a planted value; also where it is written in two bytes a character."""
    wide = re.compile(b"p\0l\0a\0n\0t\0e\0d\0-")
    return [
        str(path)
        for path in place.rglob("*")
        if path.is_file() and (VALUES.search(path.read_bytes()) or wide.search(path.read_bytes()))
    ]


@pytest.mark.distributed
@pytest.mark.mpi
def test_no_planted_variable_reaches_a_file_or_a_log(tmp_path):
    sizes = ["--grid", "16", "--train", "13", "--valid", "7", "--test", "5"]
    fmsci(tmp_path, "generate", "--system", "poisson", "--range", 1, 5, *sizes, "--output", "data", ranks=2)
    config = tmp_path / "train.yaml"
    config.write_text("run: unset\ndata: {path: data}\noptim: {epochs: 1}\n")
    pictures = [word for word in TRAINING if not word.startswith("monitor.pictures")]
    fmsci(tmp_path, "train", "train.yaml", "run=run", *pictures, "--test")
    zero = ["engine.kind=zero", "engine.zero_stage=2", "optim.epochs=1"]
    fmsci(tmp_path, "train", "train.yaml", "run=zero", *TRAINING, *zero, ranks=2)
    fmsci(tmp_path, "evaluate", "run/model", "--data", "data")
    fmsci(tmp_path, "status", "run")
    fmsci(tmp_path, "train", "train.yaml", "run=run", "optim.lr=nonsense", code=2)
    script = fmsci(ROOT, "submit", "pretrain", "configs/pretrain/quickstart.yaml", "--dry-run", code=None)  # no Slurm
    assert b"#SBATCH" in script
    assert len(list(tmp_path.rglob("*"))) > 40
    assert leaks(tmp_path) == []


def test_a_leak_would_be_found(tmp_path):
    (tmp_path / "config.yaml").write_text(f"token: {PLANTED['HF_TOKEN']}\n")
    (tmp_path / "wide.bin").write_bytes(PLANTED["HF_TOKEN"].encode("utf-16-le"))
    assert len(leaks(tmp_path)) == 2


NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|RANK")
NO_VARIABLES = {"BOOT_FAIL", "NODE_FAIL", "OUT_OF_MEMORY", "SC_PAGE_SIZE", "SC_PHYS_PAGES", "MPI_LOCAL"}
NO_VARIABLES |= {"GRAD_A", "GRAD_Z", "LARGE_BYTES"}
"""Words of Slurm, of the C library, of kernels and of `__all__` that look like variables, and the beginning of some."""


def variables_of_python():
    """Return what the package names like a variable: in a string, or as an argument (of a child's environment)."""
    for path in (ROOT / "fmsci").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.value if isinstance(node, ast.Constant) else getattr(node, "arg", None)
            if isinstance(node, (ast.Constant, ast.keyword)) and isinstance(name, str) and NAME.fullmatch(name):
                yield name


def variables_of_scripts():
    """Return what job scripts read or set: what Slurm and libraries know, and all of fmsci's own."""
    for path in (ROOT / "slurm").iterdir():
        yield from re.findall(r"\b(?:SLURM|SLURMD|FMSCI|HDF5|OMP|MASTER)_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())


def test_every_variable_that_is_read_or_set_is_documented():
    page = (ROOT / "docs/reliability.md").read_text()
    names = {*variables_of_python(), *variables_of_scripts()} - NO_VARIABLES
    assert {"RANK", "SLURM_PROCID", "OMP_NUM_THREADS", "WANDB_MODE", "CUDA_VISIBLE_DEVICES", "SLURMD_NODENAME"} <= names
    missing = sorted(name for name in names if f"`{name}`" not in page and not name.startswith("FMSCI_"))
    assert not missing, f"docs/reliability.md does not name {', '.join(missing)}"
    listed = page.partition("## What goes into files")[2].partition("\n## ")[0]
    unused = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9])`", listed)) - names
    assert not unused, f"docs/reliability.md names {', '.join(unused)}, which nothing reads"
