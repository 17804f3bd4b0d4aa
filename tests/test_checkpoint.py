"""The newest complete checkpoint is found whatever happened to the others, and nothing else is believed."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from fmsci.checkpoint import COMPLETE, STATE, checkpoint_path, newest_checkpoint, save_checkpoint
from fmsci.errors import UserError
from fmsci.files import ASIDE_PREFIX
from fmsci.tensors import each_tensor, write_tensors

WEIGHTS = "model.safetensors"


def save(run, step, keep=10, stays=lambda step: False):
    """Save a checkpoint with real weights, a nested engine file, and a state that names the step."""

    def write(folder):
        write_tensors(folder / WEIGHTS, {"w": torch.full((300,), float(step))})
        (folder / "engine").mkdir()
        (folder / "engine" / "part-0").write_text(f"part of {step}")

    return save_checkpoint(run, step, {"step": step, "best": None}, write, keep, stays)


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def flip(path, place=-1):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def record(path, change):
    """Change the record that makes a checkpoint complete."""
    document = json.loads((path / COMPLETE).read_text())
    change(document)
    (path / COMPLETE).write_text(json.dumps(document))


# ------------------------------------------------------------------ found


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    assert newest_checkpoint(tmp_path) is None


def test_the_newest_is_found_with_its_state_and_its_files(tmp_path, capsys):
    for step in (5, 99_999_999):
        save(tmp_path, step)
    path = save(tmp_path, 100_000_000)  # of nine digits: the order is by number, not by name
    assert newest_checkpoint(tmp_path) == (path, {"step": 100_000_000, "best": None})
    assert path == checkpoint_path(tmp_path, 100_000_000)
    assert dict(each_tensor(path / WEIGHTS))["w"][0] == 100_000_000
    assert (path / "engine" / "part-0").read_text() == "part of 100000000"
    assert set(json.loads((path / COMPLETE).read_text())["files"]) == {STATE, WEIGHTS, "engine/part-0"}
    assert capsys.readouterr().err == ""


def test_other_names_are_no_checkpoints(tmp_path, capsys):
    path = save(tmp_path, 3)
    for name in ("step-9", "step-00000009x", "last", f"{ASIDE_PREFIX}step-00000009-host-1"):
        shutil.copytree(path, tmp_path / "checkpoints" / name)
    (tmp_path / "checkpoints" / "step-00000099").write_text("a file")
    assert newest_checkpoint(tmp_path)[0] == path
    assert capsys.readouterr().err == ""


def test_the_same_step_can_be_saved_again(tmp_path):
    save_checkpoint(tmp_path, 7, {"best": 1}, lambda folder: (folder / "extra").write_text("x"), keep=2)
    save_checkpoint(tmp_path, 7, {"best": 2}, lambda folder: None, keep=2)
    path, state = newest_checkpoint(tmp_path)
    assert state == {"best": 2}
    assert sorted(item.name for item in path.iterdir()) == [COMPLETE, STATE]


# ------------------------------------------------------------------ damaged

DAMAGES = {
    "a flipped byte of the weights": (lambda path: flip(path / WEIGHTS), f"{WEIGHTS} has changed"),
    "a flipped byte of the state": (lambda path: flip(path / STATE, 5), f"{STATE} has changed"),
    "a flipped byte in a folder": (lambda path: flip(path / "engine" / "part-0"), "engine/part-0 has changed"),
    "truncated weights": (lambda path: os.truncate(path / WEIGHTS, 100), f"{WEIGHTS} has changed"),
    "empty weights": (lambda path: os.truncate(path / WEIGHTS, 0), f"{WEIGHTS} has changed"),
    "missing weights": (lambda path: (path / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
    "missing state": (lambda path: (path / STATE).unlink(), f"{STATE} is missing"),
    "no record": (lambda path: (path / COMPLETE).unlink(), "there is no file "),
    "an empty record": (lambda path: (path / COMPLETE).write_text(""), "cannot be read as JSON"),
    "half a record": (lambda path: os.truncate(path / COMPLETE, 60), "cannot be read as JSON"),
    "a binary record": (lambda path: (path / COMPLETE).write_bytes(b"\xff\x00\xfe"), "cannot be read as JSON"),
    "another record": (lambda path: (path / COMPLETE).write_text("[1, 2]"), "a mapping of keys to values is needed"),
    "a record that is a folder": (
        lambda path: ((path / COMPLETE).unlink(), (path / COMPLETE).mkdir()),
        "Is a directory",
    ),
    "no format": (lambda path: record(path, lambda doc: doc.pop("format")), "'format' is missing"),
    "no list of files": (lambda path: record(path, lambda doc: doc.pop("files")), "'files' is missing"),
    "files as a list": (lambda path: record(path, lambda doc: doc.update(files=["a"])), "'files' is ['a'] but"),
    "no files": (lambda path: record(path, lambda doc: doc["files"].clear()), f"does not list {STATE}"),
    "no state listed": (lambda path: record(path, lambda doc: doc["files"].pop(STATE)), f"does not list {STATE}"),
    "no checksum": (
        lambda path: record(path, lambda doc: doc["files"][WEIGHTS].pop("sha256")),
        f"'files.{WEIGHTS}.sha256' is missing",
    ),
    "a folder with a file's name": (
        lambda path: ((path / WEIGHTS).unlink(), (path / WEIGHTS).mkdir()),
        f"{WEIGHTS} is missing",
    ),
    "a link out of it": (
        lambda path: (path / WEIGHTS).symlink_to((path / WEIGHTS).rename(path.parent / "same")),
        f"{WEIGHTS} is a link that leads out of the checkpoint",
    ),
    "a name that no file can have": (
        lambda path: record(path, lambda doc: doc["files"].update({"x" * 300: doc["files"][STATE]})),
        "File name too long",
    ),
    "an empty folder": (lambda path: (shutil.rmtree(path), path.mkdir()), "there is no file "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, capsys, damage):
    older, newer = save(tmp_path, 10), save(tmp_path, 20)
    spoil, reason = DAMAGES[damage]
    spoil(newer)
    assert newest_checkpoint(tmp_path) == (older, {"step": 10, "best": None})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fmsci: the checkpoint {newer} is damaged (")
    assert line.endswith("); looking for the one before")
    assert reason in line


def test_where_all_are_damaged_there_is_none(tmp_path, capsys):
    for step in (10, 20, 30):
        (save(tmp_path, step) / STATE).unlink()
    assert newest_checkpoint(tmp_path) is None
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize("name", ["../step-00000010/state.json", "engine/../../secret", "..", "/ABSOLUTE"])
def test_a_record_that_points_outside_its_folder_is_refused(tmp_path, capsys, name):
    older, newer = save(tmp_path, 10), save(tmp_path, 20)
    (tmp_path / "checkpoints" / "secret").write_text("x")
    (tmp_path / "ABSOLUTE").write_text("x")
    name = name.replace("/ABSOLUTE", str(tmp_path / "ABSOLUTE"))
    right = json.loads((older / COMPLETE).read_text())["files"][STATE]  # true for the first of them
    record(newer, lambda doc: doc["files"].update({name: right}))
    assert newest_checkpoint(tmp_path)[0] == older
    assert f"lists '{name}', which is not a file of this folder" in capsys.readouterr().err


def test_a_checkpoint_of_a_later_version_is_not_skipped(tmp_path):
    save(tmp_path, 10)
    record(save(tmp_path, 20), lambda doc: doc.update(format=2))
    with pytest.raises(UserError, match=r"step-00000020 has format 2, this fmsci reads 1: continue with the version"):
        newest_checkpoint(tmp_path)


# ------------------------------------------------------------------ kept


def test_the_newest_few_are_kept(tmp_path):
    for step in range(1, 8):
        save(tmp_path, step, keep=3)
        assert names(tmp_path) == [f"step-{number:08d}" for number in range(max(1, step - 2), step + 1)]
    save(tmp_path, 8, keep=1)
    assert names(tmp_path) == ["step-00000008"]


def test_chosen_ones_stay_beside_the_newest(tmp_path):
    def write(folder):
        write_tensors(folder / WEIGHTS, {"w": torch.zeros(3)})

    for step in range(1, 10):
        save_checkpoint(tmp_path, step, {}, write, keep=2, stays=lambda step: step % 4 == 0)
    assert names(tmp_path) == [f"step-{number:08d}" for number in (4, 8, 9)]


def test_what_was_saved_last_stays_though_damaged_ones_have_later_steps(tmp_path):
    """A run that went back behind damaged checkpoints must not lose the good ones to them."""
    save(tmp_path, 10)
    for step in (20, 30):
        (save(tmp_path, step) / STATE).unlink()
    assert newest_checkpoint(tmp_path)[1]["step"] == 10
    save(tmp_path, 15, keep=1, stays=lambda step: step % 10 == 0)
    assert names(tmp_path) == ["step-00000010", "step-00000015"]
    assert newest_checkpoint(tmp_path)[1]["step"] == 15


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from fmsci.checkpoint import save_checkpoint
def write(folder):
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
save_checkpoint(Path(sys.argv[1]), 20, {"step": 20}, write, 2)
"""
    path = save(tmp_path, 10)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    assert any(name.startswith(ASIDE_PREFIX) for name in names(tmp_path))
    assert newest_checkpoint(tmp_path)[0] == path
    (tmp_path / "checkpoints" / f"{ASIDE_PREFIX}file").write_text("of another kind")
    save(tmp_path, 20)
    assert names(tmp_path) == ["step-00000010", "step-00000020"]


def test_a_writer_that_fails_loses_nothing(tmp_path):
    path = save(tmp_path, 10, keep=1)

    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        save_checkpoint(tmp_path, 20, {}, fail, keep=1)
    assert names(tmp_path) == ["step-00000010"]
    assert newest_checkpoint(tmp_path)[0] == path


def test_a_full_disk_is_a_sentence_and_the_checkpoint_before_stays(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(run)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tiny file system is not allowed here")
    try:
        path = save(run, 10)
        large = {"w": torch.zeros(100_000)}
        with pytest.raises(UserError, match=r"^cannot write .*step-00000020: .*No space left on device"):
            save_checkpoint(run, 20, {}, lambda folder: write_tensors(folder / WEIGHTS, large), keep=1)
        assert names(run) == ["step-00000010"]
        assert newest_checkpoint(run)[0] == path
    finally:
        subprocess.run(["umount", str(run)], check=True)
