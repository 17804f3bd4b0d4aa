"""The worked example of docs/contributing.md, done as it says, in a copy of the package."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- (\w+)(?:: (\S+))? -->\n```\w+\n(.*?)```", re.DOTALL)


def test_a_system_is_one_file_and_one_line(tmp_path):
    text = (ROOT / "docs/contributing.md").read_text()
    steps = {kind: (path, content) for kind, path, content in BLOCK.findall(text)}
    shutil.copytree(ROOT / "fmsci", tmp_path / "fmsci", ignore=shutil.ignore_patterns("__pycache__"))
    path, content = steps["file"]
    (tmp_path / path).write_text(content)
    path, content = steps["line"]
    catalogue = (tmp_path / path).read_text()
    assert content.count("\n") == 1
    (tmp_path / path).write_text(catalogue.replace('    "helmholtz",\n', '    "helmholtz",\n' + content))
    _, content = steps["command"]
    words = [sys.executable, "-m", *shlex.split(content)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, capture_output=True)
    with h5py.File(tmp_path / "data/screened/train.h5") as file:
        fields, tensor = file["fields"][:].astype(float), file["tensor"][:].astype(float)
    assert np.all((tensor[:, 1] <= -1) & (tensor[:, 1] >= -3))
    k = np.fft.fftfreq(32, 1 / 32)
    symbol = tensor[:, :1, None] * 4 * np.pi**2 * (k[:, None] ** 2 + k**2) - tensor[:, 1:, None]
    exact = np.fft.ifft2(np.fft.fft2(fields[:, 0]) / symbol).real
    assert np.abs(fields[:, 1] - exact).max() < 1e-6 * np.abs(exact).max()
    again = [sys.executable, "-m", "fmsci", "data", "check", "data/screened", "--solve"]
    subprocess.run(again, cwd=tmp_path, env=environment, check=True, capture_output=True)
