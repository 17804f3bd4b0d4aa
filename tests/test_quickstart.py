"""The first README command in its reduced form: interrupted with Ctrl-C, started again, judged by what it leaves."""

import contextlib
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


def wait_until(there, process):
    deadline = time.monotonic() + 120
    while not there():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def left_behind(output):
    """Return the commands still running that name this output folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            found += [words] if any(str(output) in word for word in words) else []
    return found


@pytest.mark.slow
@pytest.mark.distributed
def test_quickstart_can_be_interrupted_and_keeps_what_is_finished(tmp_path):
    process = start(tmp_path)
    shards = tmp_path / "data" / "quickstart-tiny-pretrain" / "train"
    wait_until(lambda: shards.exists() and list(shards.glob("shard-*.h5")), process)
    os.kill(process.pid, signal.SIGTERM)  # the script alone, as kill does
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 75, printed
    assert "shards are finished" in printed
    assert not left_behind(tmp_path)

    process = start(tmp_path)
    metrics = tmp_path / "runs" / "quickstart-tiny" / "pretrain" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and '"step": 40' in metrics.read_text(), process)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does on a terminal
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 75, printed
    assert printed.count("start the same command again") == 1
    assert not left_behind(tmp_path)
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
