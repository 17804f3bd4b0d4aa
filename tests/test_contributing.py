"""The worked examples of docs/contributing.md, done as they stand there, in a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.commands import MPIEXEC, clean_environment, run

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- (file|change|command)(?:: (\S+))? -->\n```\w+\n(.*?)```", re.DOTALL)
SECTIONS = dict(
    re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", (ROOT / "docs/contributing.md").read_text(), re.DOTALL | re.MULTILINE)
)


def carried_out(title, place, code=0):
    """Do what a section says in ``place``; return what its commands printed. Each block of them ends with ``code``."""
    for folder in ("fmsci", "configs", "slurm"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    steps = BLOCK.findall(SECTIONS[title])
    assert {kind for kind, _, _ in steps} >= {"file", "command"}
    printed = ""
    for kind, path, content in steps:
        if kind == "file":
            assert not (place / path).exists()
            (place / path).write_text(content)
        elif kind == "change":
            before = "".join(line[1:] + "\n" for line in content.splitlines() if line[0] != "+")
            after = "".join(line[1:] + "\n" for line in content.splitlines() if line[0] != "-")
            text = (place / path).read_text()
            if not before.strip() or text.count(before) != 1:
                raise AssertionError(f"{path} does not hold once: {before}")
            (place / path).write_text(text.replace(before, after))
        else:
            printed += commands(content, place, code)
    return printed


def commands(lines, place, code):
    """Run lines of a shell with the package of ``place``, and return what they printed."""
    bin_folder = place / "bin"
    bin_folder.mkdir(exist_ok=True)
    (bin_folder / "fmsci").write_text(f'#!/bin/sh\nexec {sys.executable} -m fmsci "$@"\n')
    (bin_folder / "fmsci").chmod(0o755)
    path = f"{bin_folder}:{MPIEXEC.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", lines],
        cwd=place,
        env=clean_environment(PATH=path, PYTHONPATH=str(place)),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_example_is_carried_out_here():
    tests = Path(__file__).read_text()
    for title in SECTIONS:
        assert not title.startswith("Add ") or f'carried_out("{title}"' in tests


def test_a_system_is_one_file_and_one_line(tmp_path):
    assert "nothing wrong" in carried_out("Add a system", tmp_path)
    with h5py.File(tmp_path / "data/screened/train.h5") as file:
        fields, tensor = file["fields"][:].astype(float), file["tensor"][:].astype(float)
    assert np.all((tensor[:, 1] <= -1) & (tensor[:, 1] >= -3))
    k = np.fft.fftfreq(32, 1 / 32)
    symbol = tensor[:, :1, None] * 4 * np.pi**2 * (k[:, None] ** 2 + k**2) - tensor[:, 1:, None]
    exact = np.fft.ifft2(np.fft.fft2(fields[:, 0]) / symbol).real
    assert np.abs(fields[:, 1] - exact).max() < 1e-6 * np.abs(exact).max()


def test_an_architecture_is_one_file_and_its_name(tmp_path):
    printed = carried_out("Add an architecture", tmp_path)
    error = float(re.search(r"relative L2 error (\S+)", printed)[1])
    assert error < 0.7, "it has learned nothing"
    said = run(["evaluate", tmp_path / "runs/residual/model", "--data", tmp_path / "data/small"], code=2)
    assert "residual_fno" in said
    assert "Traceback" not in said


@pytest.mark.distributed
def test_an_engine_is_one_file_and_a_name(tmp_path):
    carried_out("Add an engine", tmp_path)
    plain, ddp = (losses(tmp_path / "runs" / name) for name in ("plain", "ddp"))
    assert len(plain) == 9
    assert plain == pytest.approx(ddp, rel=1e-5)
    assert "kind: plain" in (tmp_path / "runs/plain/config.yaml").read_text()


def losses(folder):
    entries = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [entry["train/loss"] for entry in entries if "train/loss" in entry]


def test_a_site_is_one_file(tmp_path):
    printed = carried_out("Add a site", tmp_path, code=0 if shutil.which("sbatch") else 2)
    for line in (
        "#SBATCH --partition=gpu",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --time=04:00:00",
        "module load python",
    ):
        assert line in printed, printed
