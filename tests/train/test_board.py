"""TensorBoard itself, started on a run and looked at in a browser; and W&B's own files, where it is installed."""

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.commands import clean_environment, command, run
from tests.conftest import TRAINING

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HAS_WANDB = importlib.util.find_spec("wandb") is not None
needs_wandb = pytest.mark.skipif(
    not HAS_WANDB, reason="needs W&B, which the lock leaves out (27 more packages): pip install wandb"
)


@pytest.fixture
def board(trained):
    """The address of a TensorBoard that shows a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("tensorboard")
    process = subprocess.Popen(
        [program, "--logdir", trained / "tensorboard", "--port", str(port)],
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"{address}/data/plugin/scalars/tags", timeout=10) as answer:
                if b"train/loss" in answer.read():
                    break
        except OSError:
            pass
        assert process.poll() is None
        assert time.monotonic() < deadline, "TensorBoard never showed the run"
        time.sleep(0.3)
    yield address
    process.terminate()
    process.wait()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
def test_the_first_page_shows_the_run_in_a_browser(board, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--window-size=1500,1400"]
    budget = ["--virtual-time-budget=30000", "--dump-dom"]
    done = subprocess.run([BROWSER, *options, *budget, board], capture_output=True, text=True, timeout=200, check=True)
    for group in ("memory", "perf", "train", "valid"):
        assert re.search(rf">\s*{group}\s*<", done.stdout), group
    for page in ("Custom Scalars", "Text", "HParams"):
        assert page.lower() in done.stdout.lower()
    assert "No dashboards are active" not in done.stdout


def test_the_page_of_custom_scalars_is_served(board):
    with urllib.request.urlopen(f"{board}/data/plugin/custom_scalars/layout", timeout=60) as answer:
        page = json.load(answer)
    titles = [part["title"] for part in page["category"]]
    assert titles == ["is it learning", "is it fast", "where is the error"]


def log_records(data, block=32768):
    """Yield the records of a LevelDB log behind W&B's own 7 bytes: checksum, length, kind (1 whole, 2 to 4 parts)."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # no room for a header: the next block
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts = (parts if kind in {3, 4} else b"") + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:
            yield parts


@needs_wandb
def test_a_mirror_leaves_an_offline_run_with_the_same_curve(train_config, tmp_path):
    from wandb.proto import wandb_internal_pb2

    folder = tmp_path / "run"
    run(["train", train_config, f"run={folder}", *TRAINING, "monitor.wandb=fmsci"])
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    steps = {}
    for data in log_records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            if "train/loss" in items:
                steps[int(items["_step"])] = float(items["train/loss"])
    from tests.train.test_monitor import entries

    told = {line["step"]: line["train/loss"] for line in entries(folder) if "train/loss" in line}
    assert steps == pytest.approx(told)


@needs_wandb
def test_a_mirror_that_fails_does_not_stop_the_run(train_config, tmp_path):
    folder = tmp_path / "run"
    environment = clean_environment(WANDB_MODE="online", WANDB_API_KEY="not-a-key", WANDB_BASE_URL="http://127.0.0.1:9")
    arguments = ["train", train_config, f"run={folder}", *TRAINING, "monitor.wandb=fmsci"]
    done = subprocess.run(command(arguments), env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "fmsci: W&B fails and is left out from here on" in done.stderr
    assert (folder / "result.json").exists()


@pytest.mark.skipif(HAS_WANDB, reason="W&B is installed")
def test_without_the_package_there_is_a_sentence_before_anything_is_trained(train_config, tmp_path):
    said = run(["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, "monitor.wandb=fmsci"], code=2)
    assert "monitor.wandb is set but W&B cannot be imported" in said
    assert "pip install wandb" in said
    assert not list((tmp_path / "run").glob("checkpoints/*"))
