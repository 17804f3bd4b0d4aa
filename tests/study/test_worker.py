"""One process for several jobs: each has its own log and exit code, and a signal between two of them is not lost."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fmsci.world import one_gpu
from tests.commands import clean_environment, command, run, warm_command
from tests.conftest import TRAINING


@pytest.fixture(params=[warm_command])
def worker(request):
    process = subprocess.Popen(
        request.param(["worker"]),
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def ask(process, words, log):
    process.stdin.write(json.dumps({"words": [str(word) for word in words], "log": str(log)}) + "\n")
    process.stdin.flush()


def answer(process):
    return json.loads(process.stdout.readline())["code"]


@pytest.mark.parametrize(
    ("gpus", "visible", "given"),
    [
        (2, None, ["0", "1", "0"]),
        (2, "2,3,5", ["2", "3", "2"]),
        (4, "MIG-a,MIG-b", ["MIG-a", "MIG-b", "MIG-a"]),
        (2, "", ["", "", ""]),
    ],
)
def test_processes_share_the_gpus_that_the_study_itself_may_see(gpus, visible, given, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [one_gpu(place, gpus)["CUDA_VISIBLE_DEVICES"] for place in range(3)] == given


def test_jobs_take_turns_as_if_each_had_its_own_process(worker, train_config, trained, tmp_path):
    jobs = [
        ["train", train_config, f"run={tmp_path / 'one'}", *TRAINING, "--test"],
        ["train", train_config, f"run={tmp_path / 'wrong'}", "optim.epoch=3"],
        ["train", train_config, f"run={tmp_path / 'two'}", f"init={trained / 'model'}", *TRAINING[3:]],
        ["train", train_config, f"run={tmp_path / 'three'}", *TRAINING, "engine.threads=1"],
    ]
    codes = []
    for number, words in enumerate(jobs):
        ask(worker, words, tmp_path / f"{number}.log")
        codes.append(answer(worker))
    assert codes == [0, 2, 0, 0]
    assert "did you mean 'epochs'" in (tmp_path / "1.log").read_text()
    assert "test error" in (tmp_path / "0.log").read_text()
    assert "test error" not in (tmp_path / "2.log").read_text()
    alone = json.loads((trained / "result.json").read_text())
    for name in ("one", "three"):  # the same numbers as in a process of its own, whatever ran before
        assert json.loads((tmp_path / name / "result.json").read_text())["best"] == alone["best"]
    assert worker.communicate(timeout=30) == ("", None)  # no more to read: it ends
    assert worker.returncode == 0


@pytest.mark.parametrize("worker", [command], indirect=True)  # which sleeps itself: nobody stands for it
def test_a_signal_that_comes_between_two_jobs_is_obeyed(worker, train_config, tmp_path):
    ask(worker, ["train", train_config, f"run={tmp_path / 'one'}", *TRAINING], tmp_path / "log")
    assert answer(worker) == 0
    deadline = time.monotonic() + 30
    while "pipe_read" not in Path(f"/proc/{worker.pid}/wchan").read_text():  # else it may look before it waits, and end
        assert time.monotonic() < deadline, "the worker does not wait for its next job"
        time.sleep(0.01)
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert worker.poll() is None  # it has nothing to save, and waits for its last word
    ask(worker, ["train", train_config, f"run={tmp_path / 'two'}", *TRAINING, "optim.epochs=4000"], tmp_path / "log")
    assert answer(worker) == 75
    assert worker.wait(timeout=30) == 0
    assert json.loads((tmp_path / "two" / "outcome.json").read_text())["status"] == "saved"


def test_an_error_that_nobody_foresaw_ends_the_process(worker, tmp_path):
    ask(worker, ["train", tmp_path / "config.yaml", 3], tmp_path / "log")
    assert answer(worker) == 2
    worker.stdin.write("no document\n")
    worker.stdin.flush()
    assert worker.wait(timeout=30) == 1
    assert worker.stdout.read() == ""


def test_it_is_no_verb_for_people():
    assert "worker" not in run(["--help"])
