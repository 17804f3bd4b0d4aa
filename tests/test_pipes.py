"""What a command is given, or finds in a folder, may be a pipe: it is refused at once, nobody waits for a writer."""

import os
import shutil
import signal
import stat
from dataclasses import replace

import pytest

from fmsci.checkpoint import newest_checkpoint
from fmsci.cluster.status import run_status
from fmsci.cluster.watch import Watched
from fmsci.config import TrainSettings, load_settings
from fmsci.dataset.samples import SampleSet
from fmsci.errors import UserError
from fmsci.files import read_json, write_json
from fmsci.generate.agree import check_manifest
from fmsci.generate.plan import Request
from fmsci.library.adopt import read_checkpoint, read_scales
from fmsci.model_folder.weights import load_operator
from fmsci.shards import check, read_manifest
from fmsci.shards.foreign import open_samples
from fmsci.shards.layout import PLAN
from fmsci.tensors import each_tensor
from fmsci.train.journal import Journal
from fmsci.train.outcome import read_outcome, read_result
from tests.commands import run

SECONDS = 20


@pytest.fixture(autouse=True)
def impatience():
    """Ends a test that waits; opening a pipe does so for ever."""

    def end(number, frame):
        pytest.fail(f"it waited for {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path):
    """Put a pipe in the place of a file."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def settings_of(run):
    return load_settings(TrainSettings, run / "config.yaml", [f"run={run}"])


def told(run):
    """Return what is known of a run, but for what passes by itself."""
    return replace(run_status(run, {}), checkpoint_age_s=None)


@pytest.mark.parametrize(
    "read",
    [
        read_json,
        lambda path: dict(each_tensor(path)),
        open_samples,
        lambda path: load_settings(TrainSettings, path),
        read_checkpoint,
        lambda path: read_scales(path, "poisson", 16),
    ],
    ids=["json", "tensors", "samples", "settings", "ckpt.tar", "scales.npy"],
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_file_that_is_given(tmp_path, read, kind):
    path = tmp_path / "given"
    pipe(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"given") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "train.h5", "plan.json", "train/shard-00000.h5", "stray"])
def test_a_file_of_a_data_folder(poisson_data, tmp_path, name):
    folder = shutil.copytree(poisson_data, tmp_path / "data")
    pipe(folder / name)
    if name == "manifest.json":
        with pytest.raises(UserError, match=r"manifest.json cannot be read: it is a pipe or a device, not a file"):
            check.check_folder(folder)
        return
    found = check.check_folder(folder) or check_manifest(folder, read_manifest(folder))
    assert [finding.file for finding in found] == [name]
    if name == "train/shard-00000.h5":
        with pytest.raises(UserError, match=r"it is no file"):
            SampleSet(folder, "train")
    if name == "plan.json":
        with pytest.raises(UserError, match=r"plan.json cannot be read: it is a pipe"):
            Request.model_validate(read_json(folder / PLAN))


def test_a_pipe_is_no_place_for_a_file(trained, poisson_data, tmp_path):
    place = pipe(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"^cannot write .*pipe: it is a pipe or a device, not a file; free or change"):
        write_json(place, {})
    measure = ["evaluate", trained / "model", "--data", poisson_data, "--output"]
    for output, sentence in {
        place: "it is a pipe or a device, not a file",
        tmp_path / "a.png": "a.png is the name of the picture too; give the result another ending, such as .json",
        ".": "cannot write .: Is a directory; free or change the place and repeat",
        "/": "cannot write /: Is a directory",
    }.items():
        assert sentence in run([*measure, output], code=2)
    assert stat.S_ISFIFO(place.stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("name", ["config.json", "normalization.json", "model.safetensors"])
def test_a_file_of_a_model_folder(trained, tmp_path, name):
    folder = shutil.copytree(trained / "model", tmp_path / "model")
    pipe(folder / name)
    with pytest.raises(UserError, match=r"do not use this folder|it has no config.json"):
        load_operator(folder)


@pytest.mark.parametrize("name", ["COMPLETE", "state.json", "model.safetensors"])
def test_a_file_of_a_checkpoint(trained, tmp_path, name, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    steps = sorted((run / "checkpoints").glob("step-*"))
    for step in steps:
        pipe(step / name)
    assert newest_checkpoint(run) is None
    assert capsys.readouterr().err.count("is damaged") == len(steps)


@pytest.mark.parametrize("name", ["outcome.json", "result.json", "metrics.jsonl", "config.yaml", ".lock", "slurm_job"])
def test_a_file_of_a_run_folder(trained, tmp_path, name):
    run = shutil.copytree(trained, tmp_path / "run")
    pipe(run / name)
    status = run_status(run, {})
    if name in {"outcome.json", "result.json", "metrics.jsonl"}:
        assert status.state == "unreadable"
        assert f"{name} cannot be read: it is a pipe or a device, not a file" in status.why
    else:
        assert status.state in {"finished", "unreadable"}
    if name == "metrics.jsonl":
        with pytest.raises(UserError, match=r"cannot write the metrics of .*: it is a pipe or a device"):
            Journal(settings_of(run), 0, ["poisson"])
    if name == "outcome.json":
        with pytest.raises(UserError, match=r"it is a pipe"):
            read_outcome(run)
    if name == "result.json":
        with pytest.raises(UserError, match=r"it is a pipe"):
            read_result(run)


def test_metrics_that_are_a_link_are_not_written_through(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "victim").write_text("precious")
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=r"cannot write the metrics of .*: it is a symbolic link to another place"):
        Journal(settings_of(run), 4, ["poisson"])
    assert (tmp_path / "victim").read_text() == "precious"


def test_zeros_at_the_end_of_the_metrics_hide_nothing(trained, tmp_path):
    """What a power loss leaves: status, watch and the start that continues the run all go on."""
    run = shutil.copytree(trained, tmp_path / "run")
    path = run / "metrics.jsonl"
    whole = path.read_bytes()
    before = told(run)
    path.write_bytes(whole + bytes(4096))
    assert told(run) == before
    path.write_bytes(whole + bytes(4096) + b"\n")
    assert told(run) == before
    assert Watched(run).view(120)
    Journal(settings_of(run), before.step, ["poisson"]).close()
    assert path.read_bytes() == whole


def test_a_damaged_run_does_not_hide_the_others(trained, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(trained, tmp_path / name)
    for content in ("", "{}", '{"status": 3}', "[]", '{"status": "failed"}', '{"status": "lost", "why": null}'):
        (tmp_path / "a/outcome.json").write_text(content)
        assert run_status(tmp_path / "a", {}).state == "unreadable"
    assert run_status(tmp_path / "b", {}).state == "finished"
    (tmp_path / "a/outcome.json").write_text('{"status": "lost", "why": "node-3", "step": 4, "samples": [1, 2]}')
    assert run_status(tmp_path / "a", {}).state == "lost"  # words and keys of later versions are passed on
    assert run_status(tmp_path / "a", {}).error > 0
