"""Stopping: whoever asks, all ranks agree, save and exit with 75; the next start ends in the undisturbed bits."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import h5py
import pytest

from fmsci.checkpoint import newest_checkpoint
from fmsci.config.sections import CheckpointSettings
from fmsci.dataset.order import epoch_order
from fmsci.train.preempt import find_deadline
from tests.commands import clean_environment, command, free_ports, run, warm_command
from tests.conftest import TRAINING
from tests.train.several import Case, several
from tests.train.test_resume import LONG, final_bits, start, wait_for_step, world
from tests.warm import warm


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, train_config):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run(["train", train_config, f"run={folder}", *LONG])
    return final_bits(folder)


def outcome(folder):
    return json.loads((folder / "outcome.json").read_text())


def test_a_stop_inside_validation_loses_nothing(undisturbed, train_config, tmp_path):
    """The deadline is over at once: the first look at it is inside the validation before the first step."""
    folder = tmp_path / "run"
    arguments = ["train", train_config, f"run={folder}", *LONG]
    printed = run([*arguments, "checkpoint.deadline_minutes=1e-9"], code=75)
    assert "the deadline asked for it; saved after step 0" in printed
    position = newest_checkpoint(folder)[1]["position"]
    assert (position["step"], position["validation_due"]) == (0, True)
    run(arguments)
    assert final_bits(folder) == undisturbed


def test_a_stop_inside_a_later_validation_loses_nothing(undisturbed, train_config, tmp_path):
    folder = tmp_path / "run"
    arguments = ["train", train_config, f"run={folder}", *LONG]
    printed = started_with(
        "import signal, fmsci.train.preempt as preempt\n"
        "check, looks = preempt.Preempt.check, []\n"
        "def look(self):\n"
        "    looks.append(self)\n"
        "    if len(looks) == 4:\n"  # there is one look in each validation, the first of them before the first step
        "        signal.raise_signal(signal.SIGUSR2)\n"
        "    check(self)\n"
        "preempt.Preempt.check = look\n",
        arguments,
    )
    assert "a signal asked for it; saved after step 9 of 120" in printed
    assert newest_checkpoint(folder)[1]["position"]["validation_due"]
    run(arguments)
    assert final_bits(folder) == undisturbed


def test_a_stop_inside_the_test_is_obeyed_and_the_next_start_tests(train_config, tmp_path):
    folder = tmp_path / "run"
    arguments = ["train", train_config, f"run={folder}", *TRAINING, "--test", "--json"]
    printed = started_with(
        "import signal, fmsci.evaluate as evaluate\n"
        "load = evaluate.load_operator\n"
        "def loaded(*given):\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    return load(*given)\n"
        "evaluate.load_operator = loaded\n",
        arguments,
    )
    assert "a signal asked for it; the model is trained, its test has to be done again" in printed
    assert (outcome(folder)["status"], outcome(folder)["step"]) == ("saved", 12)
    assert json.loads(run(arguments).splitlines()[-1])["test"]["count"] == 5


def started_with(script, arguments, code=75):
    """Run a command after a few lines of Python; return what it printed."""
    words = warm(["-c", f"{script}from fmsci.cli import main\nmain()\n", *arguments], "engine.kind=zero" in arguments)
    done = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_end_of_a_slurm_job_is_a_deadline(monkeypatch):
    def minutes(left, **settings):
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + 60 * left)))
        return (find_deadline(CheckpointSettings(**settings)) - time.monotonic()) / 60

    assert minutes(100) == pytest.approx(95, abs=0.1)
    assert minutes(100, margin_minutes=2) == pytest.approx(98, abs=0.1)
    assert minutes(10) == pytest.approx(9, abs=0.1)  # a short job keeps most of its time
    assert minutes(100, deadline_minutes=30) == pytest.approx(30, abs=0.1)
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert find_deadline(CheckpointSettings()) is None


def test_a_signal_while_torch_is_imported_is_obeyed(train_config, tmp_path):
    folder = tmp_path / "run"
    process = start(["train", train_config, f"run={folder}", *LONG], how=command)
    while not caught(process.pid) >> (signal.SIGTERM - 1) & 1:
        assert process.poll() is None
        time.sleep(0.001)
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()  # the import has not even begun
    process.terminate()
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 75, printed
    assert outcome(folder)["status"] == "saved"


def caught(pid):
    """Return the signals that a process has handlers for, as the kernel's mask."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("SigCgt")), 16)


# ------------------------------------------------------------------ ranks that are lost or never come


@pytest.mark.distributed
@pytest.mark.parametrize(("kind", "lost"), [("ddp", 0), ("zero", 2)])
def test_a_lost_rank_ends_the_others_with_its_name(train_config, tmp_path, kind, lost):
    folder = tmp_path / "run"
    arguments = ["train", train_config, f"run={folder}", *LONG, "optim.epochs=4000", f"engine.kind={kind}"]
    processes = world([*arguments, "engine.zero_stage=2"], 3, range(3), *free_ports())
    wait_for_step(processes[0], folder, 10)
    processes[lost].kill()
    begun = time.monotonic()
    for rank, process in enumerate(processes):
        printed = process.communicate(timeout=60)[0]
        if rank == lost:
            continue
        assert process.returncode == 1, printed
        assert re.search(rf"no sign of life from .*rank {lost} on {socket.gethostname()}[,]", printed), printed
        assert f"noticed by rank {rank} on {socket.gethostname()};" in printed
        assert "Traceback" not in printed
    assert time.monotonic() - begun < 20
    assert newest_checkpoint(folder) is not None
    if lost != 0:
        assert outcome(folder)["status"] == "failed"


@pytest.mark.distributed
def test_a_rank_that_is_killed_or_frozen_is_named_with_its_host_in_bounded_time(train_config, tmp_path):
    """Three pairs beside each other: their times, most of them waiting, do not add up."""
    common = ["train", train_config, *LONG, "optim.epochs=4000", "monitor.validate_steps=100"]
    pairs = {
        "zero1": ["engine.kind=zero", "engine.zero_stage=1"],
        "zero3": ["engine.kind=zero", "engine.zero_stage=3"],
        "frozen": ["engine.kind=ddp", "engine.timeout_s=5"],
    }
    started = {
        name: world(
            [*common, f"run={tmp_path / name}", *engine],
            2,
            range(2),
            port,
            how=command if name == "frozen" else warm_command,  # who stands for a process cannot freeze it
        )
        for (name, engine), port in zip(pairs.items(), free_ports(3), strict=True)
    }
    try:
        for name, (first, second) in started.items():
            wait_for_step(first, tmp_path / name, 10)
            second.send_signal(signal.SIGSTOP if name == "frozen" else signal.SIGKILL)
        begun = time.monotonic()
        for name, (first, _) in started.items():
            printed = first.communicate(timeout=90)[0]
            host = socket.gethostname()
            assert first.returncode == 1, printed
            assert f"no sign of life from rank 1 on {host}, noticed by rank 0 on {host};" in printed, name
            assert "Traceback" not in printed
            assert outcome(tmp_path / name)["status"] == "failed"
            assert newest_checkpoint(tmp_path / name) is not None
        assert time.monotonic() - begun < 60
    finally:
        for pair in started.values():
            for process in pair:
                process.kill()
                process.communicate()


@pytest.mark.distributed
def test_a_rank_that_never_comes_is_named_in_bounded_time(train_config, tmp_path):
    arguments = ["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, "engine.rendezvous_s=2"]
    processes = world(arguments, 3, [0, 2], *free_ports())
    printed = processes[0].communicate(timeout=60)[0]
    assert processes[0].returncode == 2, printed
    assert "did not meet the others at 127.0.0.1:" in printed
    assert "rank 1 never came in 2 s" in printed
    assert "Traceback" not in printed
    processes[1].communicate(timeout=60)
    assert processes[1].returncode == 2
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ what is not finite


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory, poisson_data):
    """The same data, but for one training sample whose solution holds a NaN."""
    folder = tmp_path_factory.mktemp("spoilt") / "poisson"
    shutil.copytree(poisson_data, folder)
    with h5py.File(folder / "train" / "shard-00000.h5", "r+") as shard:
        shard["fields"][6, 1, 0, 0] = float("nan")
    return folder


@pytest.mark.distributed
def test_what_is_not_finite_stops_the_run_with_its_samples_and_the_last_good_checkpoint(spoilt, tmp_path):
    config = settings(spoilt, tmp_path)
    saving = ["checkpoint.every_steps=1", "seed=3"]
    printed = run(["train", config, f"run={tmp_path / 'run'}", *TRAINING, *saving], ranks=2, code=2)
    step = int(printed.partition("is nan at step ")[2].partition(" ")[0])
    assert 1 < step <= 3  # in the first epoch, not the first batch
    named = printed.partition("(training samples ")[2].partition(")")[0]
    assert "6" in named.split(", ")
    assert len(named.split(", ")) in (3, 5)
    assert f"the last good checkpoint is {tmp_path}/run/checkpoints/step-{step - 1:08d}" in printed
    assert newest_checkpoint(tmp_path / "run")[1]["position"]["step"] == step - 1


@pytest.mark.parametrize(
    "engine", [["engine.kind=ddp"], ["engine.kind=zero", "engine.zero_stage=0"]], ids=["ddp", "zero0"]
)
def test_a_finite_loss_with_a_gradient_that_is_not_is_blamed_on_its_own_batch(train_config, tmp_path, engine):
    """Nobody looks until the validation two steps later: no checkpoint or model of the spoilt weights is left."""
    folder = tmp_path / "run"
    rarely = ["monitor.every_steps=100", "monitor.validate_steps=7", "checkpoint.every_steps=3"]
    printed = started_with(
        "import fmsci.engine.ddp as ddp\n"
        "plain, calls = ddp.piece_loss, []\n"
        "def piece_loss(u, *more):\n"
        "    calls.append(u)\n"
        "    if len(calls) == 5:\n"
        "        u.register_hook(lambda gradient: gradient * 1e38 * 1e38)\n"
        "    return plain(u, *more)\n"
        "ddp.piece_loss = piece_loss\n"
        "import fmsci.engine.zero as zero\n"
        "zero.piece_loss = piece_loss\n",
        ["train", train_config, f"run={folder}", *TRAINING, *rarely, *engine],
        code=2,
    )
    assert f"the gradient of {folder} is not finite at step 5 (training samples " in printed
    assert f"the last good checkpoint is {folder}/checkpoints/step-00000003" in printed
    assert newest_checkpoint(folder)[1]["position"]["step"] == 3
    samples = epoch_order(0, 1, 13)[5:10].tolist()
    assert outcome(folder)["samples"] == samples
    assert outcome(folder)["step"] == 5
    assert f"training samples {', '.join(map(str, samples))})" in printed


@pytest.mark.distributed
def test_a_run_goes_on_without_the_batches_that_are_not_finite(spoilt, tmp_path):
    """To skip them and to go back before them is the same training: the same weights at the end."""
    config = settings(spoilt, tmp_path)
    finals = []
    for way in ("skip", "rewind"):
        folder = tmp_path / way
        saving = ["checkpoint.every_steps=1", "seed=3", f"optim.on_nonfinite={way}"]
        printed = run(["train", config, f"run={folder}", *TRAINING, *saving], ranks=2)
        assert printed.count("is not finite" if way == "skip" else "going on after step") == 4  # once an epoch
        finals.append(final_bits(folder)[0])
    assert finals[0] == finals[1]
    assert len(newest_checkpoint(tmp_path / "rewind")[1]["position"]["skipped"]) == 4


@pytest.mark.distributed
def test_zero_stops_skips_and_goes_back_as_ddp_does(spoilt, tmp_path):
    config = settings(spoilt, tmp_path)
    common = ["train", config, *TRAINING, "checkpoint.every_steps=1", "seed=3", "engine.kind=zero"]
    chosen = [(stage, way) for stage in (1, 3) for way in ("stop", "skip", "rewind")]
    cases = [
        Case([*common, f"run={tmp_path / way}-{stage}", f"optim.on_nonfinite={way}", f"engine.zero_stage={stage}"])
        for stage, way in chosen
    ]
    for (stage, way), (codes, printed) in zip(chosen, several(2, cases, tmp_path / "logs"), strict=True):
        if way == "stop":
            assert codes == [2, 2], printed
            step = int(printed.partition("is nan at step ")[2].partition(" ")[0])
            folder = tmp_path / f"stop-{stage}"
            assert f"the last good checkpoint is {folder}/checkpoints/step-{step - 1:08d}" in printed
            assert 6 in outcome(folder)["samples"]
        else:
            assert codes == [0, 0], printed
            assert printed.count("is not finite" if way == "skip" else "going on after step") == 4
    for stage in (1, 3):
        assert final_bits(tmp_path / f"skip-{stage}")[0] == final_bits(tmp_path / f"rewind-{stage}")[0]


def settings(data, folder):
    path = folder / "train.yaml"
    path.write_text(f"run: unset\ndata: {{path: {data}}}\noptim: {{epochs: 1}}\n")
    return path


# ------------------------------------------------------------------ a place that cannot be written


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tiny file system is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_a_full_disk_ends_the_run_with_a_sentence_and_it_goes_on_when_there_is_room(train_config, small_disk, tmp_path):
    larger = ["model.width=16", "model.modes=4", "model.layers=4", "checkpoint.every_steps=2", "checkpoint.keep=9"]
    arguments = ["train", train_config, *TRAINING, *larger]
    printed = run([*arguments, f"run={small_disk / 'run'}"], code=2)
    assert "No space left on device" in printed
    assert "Traceback" not in printed
    path, state = newest_checkpoint(small_disk / "run")
    assert state["position"]["step"] >= 2
    assert [item.name for item in path.parent.iterdir() if item.name.startswith(".aside")] == []
    remount(small_disk, "size=64m")
    assert f"after step {state['position']['step']}" in run([*arguments, f"run={small_disk / 'run'}"])
    run([*arguments, f"run={tmp_path / 'whole'}"])
    assert final_bits(small_disk / "run") == final_bits(tmp_path / "whole")


@pytest.mark.distributed
def test_a_run_folder_that_may_only_be_read_is_a_sentence_of_one_rank(train_config, small_disk):
    folder = small_disk / "run"
    arguments = ["train", train_config, f"run={folder}", *LONG]
    run([*arguments, "checkpoint.deadline_minutes=1e-9"], code=75)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    remount(small_disk, "ro")
    printed = run(arguments, ranks=2, code=2)
    (told,) = [line for line in printed.splitlines() if "fmsci: " in line]
    assert f"cannot write {folder}/.lock: Read-only file system" in told
    assert "Traceback" not in printed
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_that_is_closed_while_training_keeps_its_checkpoints(undisturbed, train_config, tmp_path):
    """Root, too, may not write where the file system says that nothing is to be changed."""
    folder = tmp_path / "run"
    arguments = ["train", train_config, f"run={folder}", *LONG]
    process = start([*arguments, "checkpoint.every_minutes=null"])
    wait_for_step(process, folder, 15)
    closed = ["chattr", "+i", str(folder / "checkpoints")]
    if subprocess.run(closed, capture_output=True, check=False).returncode != 0:
        process.kill()
        process.communicate()
        pytest.skip("folders cannot be made immutable here")
    try:
        printed = process.communicate(timeout=60)[0]
        names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    finally:
        subprocess.run(["chattr", "-i", str(folder / "checkpoints")], check=True)
    assert process.returncode == 2, printed
    assert "Operation not permitted; free or change the place and repeat" in printed
    assert "Traceback" not in printed
    assert newest_checkpoint(folder)[0].name == names[-1]
    run(arguments)
    assert final_bits(folder) == undisturbed
    # One that was being written when the folder closed could not be removed then; the next start did it.
    assert not list((folder / "checkpoints").glob(".aside*"))


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("name", "sentence"),
    [("model", "there is a file of that name"), ("tensorboard", "cannot write the metrics of")],
)
def test_what_rank_0_alone_cannot_write_ends_all_ranks_with_one_sentence(train_config, tmp_path, name, sentence):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()  # as an earlier start leaves it
    (folder / name).write_text("a file where a folder belongs")
    arguments = ["train", train_config, f"run={folder}", *LONG, "engine.timeout_s=60"]
    begun = time.monotonic()
    printed = run(arguments, ranks=2, code=2)
    assert time.monotonic() - begun < 40
    told = [line for line in printed.splitlines() if "fmsci: " in line]
    assert len(told) == 1, printed
    assert sentence in told[0]
    assert "Traceback" not in printed
    assert outcome(folder)["status"] == "failed"
    (folder / name).unlink()
    run(arguments, ranks=2)
