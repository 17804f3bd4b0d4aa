"""The mirror in W&B: what it is told, that it may fail, and W&B's own files where it is installed."""

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys

import pytest

from fmsci.config import TrainSettings, load_settings
from fmsci.train.mirror import Mirror
from tests.commands import clean_environment, command, run
from tests.conftest import TRAINING
from tests.train.test_monitor import entries
from tests.train.test_resume import LONG, start, wait_for_step

HAS_WANDB = importlib.util.find_spec("wandb") is not None
needs_wandb = pytest.mark.skipif(
    not HAS_WANDB, reason="needs W&B, which the lock leaves out (27 more packages): pip install wandb"
)

STAND_IN = """
import json
import os


def tell(what, **facts):
    if os.environ.get("STAND_IN_FAILS") == what:
        raise ConnectionError(f"no route to the service in {what}")
    with open(os.environ["STAND_IN_FILE"], "a", encoding="utf-8") as stream:
        stream.write(json.dumps([what, facts]) + "\\n")


class Settings:
    def __init__(self, **chosen):
        self.chosen = chosen


class Image:
    def __init__(self, pixels):
        self.shape = pixels.shape


class Run:
    def log(self, values, step):
        shown = {name: list(one.shape) if isinstance(one, Image) else one for name, one in values.items()}
        tell("log", step=step, values=shown)

    def finish(self):
        tell("finish")


def init(settings, **facts):
    tell("init", settings=settings.chosen, **facts)
    return Run()
"""
"""In place of the service's package, by the few calls of it that there are: it writes down what it is told."""


@pytest.fixture
def stand_in(tmp_path):
    """The environment in which ``import wandb`` finds the stand-in, and what it was told so far."""
    (tmp_path / "packages" / "wandb").mkdir(parents=True)
    (tmp_path / "packages" / "wandb" / "__init__.py").write_text(STAND_IN)
    told = tmp_path / "told.jsonl"
    places = [str(tmp_path / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(places), "STAND_IN_FILE": str(told)}
    return environment, lambda: [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []


def train(arguments, **environment):
    done = subprocess.run(
        command(arguments),
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_same_run_in_the_mirror(train_config, tmp_path, stand_in):
    environment, told = stand_in
    folder = tmp_path / "run"
    arguments = ["train", train_config, f"run={folder}", *LONG, "monitor.wandb=fmsci", "monitor.pictures=true"]
    process = start(arguments, **environment)
    wait_for_step(process, folder, 16)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    train(arguments, **environment)

    starts = [number for number, (what, _) in enumerate(told()) if what == "init"]
    assert len(starts) == 2
    first, second = (told()[number][1] for number in starts)
    assert first == second
    assert (first["project"], first["mode"], first["name"], first["dir"]) == ("fmsci", "offline", "run", str(folder))
    assert first["config"]["optim"]["epochs"] == 40
    assert len(first["id"]) == 16
    curve, pictures = {}, []
    for part in (told()[starts[0] : starts[1]], told()[starts[1] :]):
        steps = [facts["step"] for what, facts in part if what == "log"]
        assert steps == sorted(steps)  # a step that falls is dropped there
        for what, facts in part:
            if what == "log":
                curve |= {facts["step"]: facts["values"]["train/loss"]} if "train/loss" in facts["values"] else {}
                pictures += [pixels for tag, pixels in facts["values"].items() if tag == "valid/poisson/fields"]
    assert 1 < min(facts["step"] for what, facts in told()[starts[1] :] if what == "log") <= 17  # from the checkpoint
    assert curve == {line["step"]: line["train/loss"] for line in entries(folder) if "train/loss" in line}
    assert pictures
    assert all(shape[2] == 3 for shape in pictures)
    assert [what for what, _ in told()].count("finish") == 1
    assert told()[-1][0] == "finish"


def test_another_run_is_another_one_in_the_mirror(train_config, tmp_path, stand_in, monkeypatch):
    environment, told = stand_in
    monkeypatch.setenv("STAND_IN_FILE", environment["STAND_IN_FILE"])
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # it sets that itself, and other tests should not inherit it
    monkeypatch.syspath_prepend(environment["PYTHONPATH"].split(os.pathsep)[0])
    monkeypatch.setitem(sys.modules, "wandb", None)  # what is there now comes back

    def begin(name):
        sys.modules.pop("wandb", None)
        Mirror(load_settings(TrainSettings, train_config, [f"run={tmp_path / name}", "monitor.wandb=fmsci"])).close()
        return [facts["id"] for what, facts in told() if what == "init"][-1]

    first, second, again = begin("one"), begin("two"), begin("one")
    assert first == again != second
    (tmp_path / "one").rename(tmp_path / "moved")
    assert begin("moved") == first
    assert begin("one") not in {first, second}  # the folder was made anew

    (tmp_path / "old" / "wandb").mkdir(parents=True)  # as a version left it that kept no identity
    old = hashlib.sha256(str(tmp_path / "old").encode()).hexdigest()[:16]
    assert begin("old") == begin("old") == old


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_a_mirror_that_fails_anywhere_does_not_stop_the_run(call, train_config, tmp_path, stand_in):
    environment, told = stand_in
    folder = tmp_path / "run"
    arguments = ["train", train_config, f"run={folder}", *TRAINING, "optim.epochs=1", "monitor.wandb=fmsci"]
    said = train(arguments, STAND_IN_FAILS=call, **environment)
    sentence = f"W&B fails and is left out from here on (ConnectionError: no route to the service in {call})"
    assert said.count(sentence) == 1
    assert "Traceback" not in said
    assert [line["step"] for line in entries(folder) if "train/loss" in line] == [1, 2, 3]
    assert (folder / "result.json").exists()
    calls = [what for what, _ in told()]
    assert calls == {"init": [], "log": ["init"], "finish": ["init"] + ["log"] * (len(calls) - 1)}[call]


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
    told = {line["step"]: line["train/loss"] for line in entries(folder) if "train/loss" in line}
    assert steps == pytest.approx(told)


@needs_wandb
def test_a_service_that_is_not_there_does_not_stop_the_run(train_config, tmp_path):
    folder = tmp_path / "run"
    environment = {"WANDB_MODE": "online", "WANDB_API_KEY": "not-a-key", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    arguments = ["train", train_config, f"run={folder}", *TRAINING, "monitor.wandb=fmsci"]
    assert "fmsci: W&B fails and is left out from here on" in train(arguments, **environment)
    assert (folder / "result.json").exists()


@pytest.mark.skipif(HAS_WANDB, reason="W&B is installed")
def test_without_the_package_there_is_a_sentence_before_anything_is_trained(train_config, tmp_path):
    said = run(["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, "monitor.wandb=fmsci"], code=2)
    assert "monitor.wandb is set but W&B cannot be imported" in said
    assert "pip install wandb" in said
    assert not list((tmp_path / "run").glob("checkpoints/*"))
