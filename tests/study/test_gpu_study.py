"""The script for a machine with a GPU, at a tiny size on a CPU: each step on a machine that knows only the output."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import clean_environment

ROOT = Path(__file__).parents[2]
FILES = {
    "data.yaml": "{system: poisson, range: [1, 5], grid: 16, train: 8, valid: 4, test: 4, output: data}",
    "train.yaml": "{run: unset, data: {path: data}, model: {width: 4, modes: 4, layers: 2}, "
    "optim: {epochs: 2, batch_size: 4}, monitor: {pictures: false, every_steps: 1}}",
    "study.yaml": "{study: q1, run: out/study, data: {configs: [FOLDER/data.yaml]}, "
    "models: {m: {train: FOLDER/train.yaml}}, tasks: {t: data}, train: FOLDER/train.yaml, samples: [4], steps: 4}",
}


@pytest.mark.slow
def test_steps_continue_from_what_the_last_one_left_and_end_with_the_report(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.replace("FOLDER", str(tmp_path)))
    out = tmp_path / "results"
    made = []
    for number, seconds in enumerate((12, 300)):
        work = tmp_path / f"machine{number}"
        done = subprocess.run(
            ["bash", ROOT / "tools/gpu_study.sh", out, tmp_path / "study.yaml"],
            env=clean_environment(
                STUDY_SECONDS=str(seconds),
                STUDY_WORK=str(work),
                PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            ),
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode in ({0, 75} if number == 0 else {0}), done.stdout + done.stderr
        made.append({line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("finished ")})
        shutil.rmtree(work)
    assert made[0] & made[1] <= {"data"}  # which are not carried: nothing else is made twice
    assert len(made[0] | made[1]) == 5
    document = json.loads((out / "table.json").read_text())
    assert document["missing"] == []
    assert all(path.stat().st_size < 16e6 for path in out.iterdir())
    assert {"report.html", "report.md", "results.csv", "errors.svg", "state.tar.part-000"} <= {
        p.name for p in out.iterdir()
    }
    packed = b"".join(path.read_bytes() for path in sorted(out.glob("state.tar.part-*")))
    listed = subprocess.run(["tar", "t"], input=packed, capture_output=True, check=True).stdout.decode()
    assert "/model/model.safetensors" in listed
    assert listed.count("/model/model.safetensors") == 1  # the pretrained one
