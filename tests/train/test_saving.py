"""Writing beside the training: what cannot or must not be written is a sentence, and what was there before stays."""

import json
import os
import random
import shlex
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fmsci import files
from fmsci.checkpoint import newest_checkpoint
from fmsci.config import TrainSettings, load_settings
from fmsci.engine.api import Snapshot
from fmsci.errors import UserError
from fmsci.files import ASIDE_PREFIX
from fmsci.tensors import each_tensor
from fmsci.train.build import build_job
from fmsci.train.run import run_training
from fmsci.train.saving import Saver
from fmsci.train.state import State
from fmsci.train.trouble import Trouble
from fmsci.world import World
from tests.commands import clean_environment, command, run
from tests.conftest import TRAINING


@pytest.fixture
def job(train_config, tmp_path):
    overrides = [f"run={tmp_path / 'run'}", *TRAINING, "checkpoint.keep=1", "checkpoint.keep_every_epochs=2"]
    return build_job(load_settings(TrainSettings, train_config, overrides), World(), torch.device("cpu"))


def train_epoch(job, state):
    for batch in job.loader.epoch(state.epoch):
        job.engine.step(batch, 1e-3)
        state.advance(batch.global_count)
    state.next_epoch()


def test_what_is_written_is_the_moment_of_the_save(job):
    """Training goes on while the thread writes: the copy must not."""
    state = State()
    train_epoch(job, state)
    expected = {name: tensor.clone() for name, tensor in job.engine.weights().items()}
    with Saver(job, Trouble()) as saver:
        saver.save(state)
        train_epoch(job, state)
        saver.close()
    path, saved = newest_checkpoint(job.run)
    assert saved["position"]["step"] == 3
    job.engine.load(path)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in job.engine.weights().items())


def test_training_goes_on_while_a_checkpoint_is_written_and_a_second_one_waits(job, monkeypatch):
    may_write, write = threading.Event(), Snapshot.write

    def held(self, folder):
        assert may_write.wait(60)
        write(self, folder)

    monkeypatch.setattr(Snapshot, "write", held)
    state = State()
    with Saver(job, Trouble()) as saver:
        train_epoch(job, state)
        saver.save(state)
        train_epoch(job, state)  # three steps, and nothing of the first checkpoint is there yet
        assert newest_checkpoint(job.run) is None
        second = threading.Thread(target=saver.save, args=(state,))
        second.start()
        second.join(0.3)
        assert second.is_alive()
        may_write.set()
        second.join(60)
        assert not second.is_alive()
        saver.close()
    assert newest_checkpoint(job.run)[1]["position"]["step"] == 6


def test_every_file_of_a_checkpoint_and_its_folders_are_synced_before_it_has_its_name(job, monkeypatch):
    synced, fsync = [], os.fsync
    final = job.run / "checkpoints" / "step-00000003"

    def noticed(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append((path.name if path.parent.name.startswith(".aside") else path, final.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noticed)
    state = State()
    train_epoch(job, state)
    with Saver(job, Trouble()) as saver:
        saver.save(state)
        saver.close()
    before = {path if isinstance(path, str) else path.name[:6] for path, named in synced if not named}
    assert before == {"COMPLETE", "model.safetensors", "optimizer.safetensors", "state.json", ".aside"}
    assert {path.name for path in final.iterdir()} == before - {".aside"}
    assert [path for path, named in synced if named] == [job.run / "checkpoints"]  # the new name itself


def test_training_draws_no_random_numbers(job):
    """So a checkpoint has no states of generators: the order of samples is a function of seed and epoch."""

    def states():
        return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()

    before = states()
    train_epoch(job, State())
    assert states() == before


def test_the_newest_the_best_and_those_of_some_epochs_stay(job):
    state = State()
    with Saver(job, Trouble()) as saver:
        for rel_l2 in (0.5, 0.4, 0.1, 0.3, 0.2):  # the third epoch is the best
            train_epoch(job, state)
            state.validated(rel_l2)
            saver.save(state)
        saver.close()
    kept = sorted(int(path.name[5:]) for path in (job.run / "checkpoints").iterdir())
    assert kept == [6, 9, 12, 15]  # epochs 2 and 4, the best, the newest


def test_on_a_slow_disk_steps_go_on_and_a_second_save_waits(job, monkeypatch):
    """Storage takes a second, and longer, to say that the first checkpoint is there."""
    state, there = State(), threading.Event()

    def slow(path):
        if path.name.startswith(f"{ASIDE_PREFIX}step-00000000"):
            assert there.wait(60)
        files_sync(path)

    files_sync = files.sync
    monkeypatch.setattr(files, "sync", slow)
    with Saver(job, Trouble()) as saver:
        saver.save(state)
        train_epoch(job, state)
        assert state.step == 3
        assert newest_checkpoint(job.run) is None  # all these steps were made meanwhile
        begun = time.monotonic()
        threading.Timer(1.0, there.set).start()
        saver.save(state)
        assert time.monotonic() - begun >= 1.0
        assert newest_checkpoint(job.run)[1]["position"]["step"] == 0
        saver.close()
    assert newest_checkpoint(job.run)[1]["position"]["step"] == 3


def test_on_a_slow_disk_a_run_ends_in_the_same_bits(trained, train_config, tmp_path, monkeypatch):
    slept = []

    def slow(path):
        if path.name.startswith(f"{ASIDE_PREFIX}step-"):
            slept.append(path)
            time.sleep(1.0)
        files_sync(path)

    files_sync = files.sync
    monkeypatch.setattr(files, "sync", slow)
    settings = load_settings(TrainSettings, train_config, [f"run={tmp_path / 'run'}", *TRAINING])
    run_training(settings, World(), torch.device("cpu"))
    assert len(slept) >= 3
    ended, wanted = (newest_checkpoint(folder)[0] for folder in (settings.run, trained))
    assert ended.name == wanted.name
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (ended / name).read_bytes() == (wanted / name).read_bytes()


def test_there_is_a_checkpoint_of_the_best_and_of_every_so_many_epochs_where_no_other_is_due(train_config, tmp_path):
    folder = tmp_path / "run"
    rarely = ["checkpoint.every_epochs=null", "checkpoint.keep=1", "checkpoint.keep_every_epochs=3"]
    rising = ["optim.epochs=8", "optim.lr=0.3", "optim.schedule=constant", "monitor.validate_steps=2"]
    run(["train", train_config, f"run={folder}", *TRAINING, *rarely, *rising])
    best = json.loads((folder / "result.json").read_text())["best"]["step"]
    kept = {int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")}
    assert 0 < best < 24
    assert best % 9 != 0  # not one of those of every third epoch
    assert kept == {best, 9, 18, 24}
    saved = dict(each_tensor(folder / "checkpoints" / f"step-{best:08d}" / "model.safetensors"))
    model = dict(each_tensor(folder / "model" / "model.safetensors"))
    assert all(torch.equal(saved[name], model[name]) for name in model)


def test_weights_that_are_not_finite_are_never_published(job):
    state = State()
    with Saver(job, Trouble()) as saver:
        train_epoch(job, state)
        saver.save(state)
        train_epoch(job, state)
        with torch.no_grad():
            next(job.engine.operator.parameters()).view(-1)[0] = float("inf")
        saver.save(state)
        with pytest.raises(UserError, match=r"is not finite after step 6: .* last good checkpoint is .*step-00000003"):
            saver.close()
    assert newest_checkpoint(job.run)[1]["position"]["step"] == 3


def test_a_place_that_is_no_folder_is_a_sentence_and_training_keeps_its_state(job):
    state = State()
    train_epoch(job, state)
    before = {name: tensor.clone() for name, tensor in job.engine.weights().items()}
    job.run.mkdir()
    (job.run / "checkpoints").write_text("a file")
    trouble = Trouble()
    with Saver(job, trouble) as saver:
        saver.save(state)
        with pytest.raises(UserError, match=r"^cannot write .*step-00000003: "):
            saver.close()
        assert trouble.happened()
    assert all(torch.equal(tensor, before[name]) for name, tensor in job.engine.weights().items())
    assert (job.run / "checkpoints").read_text() == "a file"


@pytest.fixture
def open_job(train_config):
    """A run in a folder that everybody may enter, with one checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        job = build_job(
            load_settings(TrainSettings, train_config, [f"run={name}/run", *TRAINING]), World(), torch.device("cpu")
        )
        state = State()
        with Saver(job, Trouble()) as saver:
            train_epoch(job, state)
            saver.save(state)
            saver.close()
        yield job, state


def assert_refused(job, state, reason):
    """A second checkpoint cannot be written: one sentence, the first one and the state in training as they were."""
    train_epoch(job, state)
    before = {name: tensor.clone() for name, tensor in job.engine.weights().items()}
    with Saver(job, Trouble()) as saver:
        saver.save(state)
        with pytest.raises(UserError, match=rf"^cannot write .*step-00000006: {reason}; free or change the place"):
            saver.close()
    assert all(torch.equal(tensor, before[name]) for name, tensor in job.engine.weights().items())
    assert newest_checkpoint(job.run)[1]["position"]["step"] == 3
    assert [path.name for path in (job.run / "checkpoints").iterdir()] == ["step-00000003"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_belongs_to_somebody_else_is_a_sentence(open_job):
    os.seteuid(65534)
    try:
        assert_refused(*open_job, "Permission denied")
    finally:
        os.seteuid(0)


def test_a_mount_that_may_only_be_read_is_a_sentence(open_job):
    folder = str(open_job[0].run / "checkpoints")
    bind = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False)
    if bind.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        assert_refused(*open_job, "Read-only file system")
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_no_memory_is_a_sentence(train_config, tmp_path):
    arguments = ["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, "model.width=8192", "model.modes=8"]
    limited = f"ulimit -v 12000000; exec {shlex.join(command(arguments))}"
    done = subprocess.run(
        ["bash", "-c", limited], env=clean_environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "out of memory (cpu) after step 0: set engine.accumulate to more than 1" in done.stderr
    assert "Traceback" not in done.stderr
