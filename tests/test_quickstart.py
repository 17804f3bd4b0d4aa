"""The first README command in its reduced form: interrupted with Ctrl-C, started again, judged by what it leaves."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.commands import clean_environment

ROOT = Path(__file__).parent.parent


def start(output):
    environment = clean_environment(FMSCI_QUICKSTART="tiny", FMSCI_OUTPUT=str(output))
    return subprocess.Popen(
        ["bash", "tools/quickstart.sh"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.distributed
def test_quickstart_can_be_interrupted_and_keeps_what_is_finished(tmp_path):
    process = start(tmp_path)
    metrics = tmp_path / "runs" / "quickstart-tiny" / "pretrain" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and '"step": 40' in metrics.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does on a terminal
    printed = process.communicate(timeout=60)[0]
    assert process.returncode != 0, printed
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.h5")}
    assert len(shards) > 10

    process = start(tmp_path)
    printed = process.communicate(timeout=400)[0]
    assert process.returncode == 0, printed
    assert "continuing" in printed
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.h5")} == shards
    assert "samples ┃ fine-tuned error ┃ scratch error ┃ ratio" in printed
    work = tmp_path / "runs" / "quickstart-tiny"
    rows = json.loads((work / "study" / "table.json").read_text())["rows"]
    assert [row["samples"] for row in rows] == [16, 64, 256]
    assert all(row["ratio"] < 1 for row in rows)
    shown = [Path(word) for line in printed.splitlines() for word in line.split() if word.endswith(".png")]
    assert len(shown) >= 2
    assert all(path.exists() for path in shown), shown
    assert list((work / "pretrain" / "tensorboard").glob("events.*"))
