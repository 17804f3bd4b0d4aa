"""Stopped in any way and started again, a run ends in the bits of the one that nothing disturbed."""

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import pytest

from fmsci.checkpoint import newest_checkpoint
from fmsci.locks import lock
from tests.commands import clean_environment, free_ports, run, warm_command
from tests.conftest import TRAINING

LONG = [*TRAINING, "optim.epochs=40", "checkpoint.every_steps=7", "checkpoint.every_epochs=null"]
"""120 steps; checkpoints in the middle of epochs."""


def start(arguments, ranks=None, how=warm_command, **environment):
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        how(arguments, ranks),
        env=clean_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def world(arguments, size, ranks, port, more=None, how=warm_command):
    """Start these ranks of a world without a launcher, which would end the others itself.

    ``more`` are the arguments that each has for itself.
    """
    common = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    return [
        subprocess.Popen(
            how([*arguments, *(more[number] if more else [])]),
            env=clean_environment(RANK=str(rank), LOCAL_RANK=str(rank), MASTER_PORT=str(port), **common),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, rank in enumerate(ranks)
    ]


def wait_for_step(process, folder, step):
    """Wait until a run has written the entry of a step."""
    path = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists():
            complete = path.read_text().split("\n")[:-1]
            if complete and json.loads(complete[-1])["step"] >= step:
                return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    raise AssertionError(f"step {step} never came")


def final_bits(folder):
    """Return the bytes of the last checkpoint's tensors, the best model, and the curve without times."""
    path, state = newest_checkpoint(folder)
    state["position"].pop("elapsed_s")
    files = ["model.safetensors", "optimizer.safetensors"]
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = [
        {key: value for key, value in entry.items() if not key.startswith(("perf/", "memory/"))} for entry in entries
    ]
    best = (folder / "model" / "model.safetensors").read_bytes()
    return [(path / name).read_bytes() for name in files], best, state, curve


@pytest.fixture(scope="module", params=[None, 2], ids=["one process", "two ranks"])
def undisturbed(request, tmp_path_factory, train_config):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run(["train", train_config, f"run={folder}", *LONG], ranks=request.param)
    return request.param, final_bits(folder)


@pytest.mark.distributed
def test_killed_at_any_moment_and_started_again(undisturbed, train_config, tmp_path):
    ranks, expected = undisturbed
    arguments = ["train", train_config, f"run={tmp_path / 'run'}", *LONG]
    for step in (3, 16, 45, 90):  # before the first checkpoint, in an epoch, twice more
        process = start(arguments, ranks)
        wait_for_step(process, tmp_path / "run", step)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        _wait_until_gone(tmp_path / "run")
    run(arguments, ranks=ranks)
    assert final_bits(tmp_path / "run") == expected


def _wait_until_gone(folder):
    """Wait for ranks that mpiexec started in groups of their own: they end when they find it gone."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        alive = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, check=False).stdout.split()
        if not alive:
            return
        for number in alive:
            os.kill(int(number), signal.SIGKILL)
        time.sleep(0.05)
    raise AssertionError("ranks outlived their launcher")


@pytest.mark.distributed
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_saves_and_exits_with_75(undisturbed, train_config, tmp_path, number):
    ranks, expected = undisturbed
    folder = tmp_path / "run"
    arguments = ["train", train_config, f"run={folder}", *LONG]
    process = start(arguments, ranks)
    wait_for_step(process, folder, 20)
    for pid in _ranks(folder):
        os.kill(pid, number)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 75, printed
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["status"] == "saved"
    assert newest_checkpoint(folder)[1]["position"]["step"] == outcome["step"] >= 20
    assert "start the same command again to continue" in printed
    run(arguments, ranks=ranks)
    assert final_bits(folder) == expected
    assert json.loads((folder / "outcome.json").read_text())["status"] == "finished"


def _ranks(folder):
    """Return the process ids of the training processes, without their launcher."""
    found = subprocess.run(["pgrep", "-f", f"fmsci train .*{folder}"], capture_output=True, text=True, check=True)
    launchers = subprocess.run(["pgrep", "-f", "mpiexec|hydra"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split() if pid not in launchers.stdout.split()]


@pytest.mark.distributed
def test_the_deadline_and_the_stop_file_are_obeyed_by_all_ranks(undisturbed, train_config, tmp_path):
    ranks, expected = undisturbed
    folder = tmp_path / "run"
    arguments = ["train", train_config, f"run={folder}", *LONG]
    printed = run([*arguments, "checkpoint.deadline_minutes=1e-9"], ranks=ranks, code=75)
    assert printed.count("the deadline asked for it; saved after step") == 1
    run(arguments, ranks=ranks)
    assert final_bits(folder) == expected


@pytest.mark.distributed
def test_the_stop_file_is_obeyed_by_all_ranks_and_removed(undisturbed, train_config, tmp_path):
    """It is looked for once a second: the run is far longer than that."""
    folder = tmp_path / "run"
    process = start(["train", train_config, f"run={folder}", *LONG, "optim.epochs=100000"], undisturbed[0])
    wait_for_step(process, folder, 10)
    (folder / "STOP").touch()
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 75, printed
    assert printed.count("the file STOP asked for it; saved after step") == 1
    assert not (folder / "STOP").exists()


@pytest.mark.distributed
def test_signals_that_never_end_do_not_disturb_the_save(undisturbed, train_config, tmp_path):
    """From the first one on until the processes have ended: while the checkpoint is written, and after it."""
    ranks, expected = undisturbed
    folder = tmp_path / "run"
    arguments = ["train", train_config, f"run={folder}", *LONG]
    process = start(arguments, ranks)
    wait_for_step(process, folder, 20)
    pids, sent = _ranks(folder), 0
    while process.poll() is None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                sent += 1
        time.sleep(0.001)
    printed = process.communicate()[0]
    assert process.returncode == 75, printed
    assert sent > 20
    step = json.loads((folder / "outcome.json").read_text())["step"]
    assert newest_checkpoint(folder)[1]["position"]["step"] == step
    run(arguments, ranks=ranks)
    assert final_bits(folder) == expected


@pytest.mark.distributed
def test_a_run_continues_on_another_number_of_ranks(undisturbed, train_config, tmp_path):
    """Same global batches on 1, 3 and 2 ranks in turn, so the curve is the same up to rounding."""
    _, expected = undisturbed
    arguments = ["train", train_config, f"run={tmp_path / 'run'}", *LONG]
    for ranks, step in ((None, 10), (3, 40)):
        process = start(arguments, ranks)
        wait_for_step(process, tmp_path / "run", step)
        for pid in _ranks(tmp_path / "run"):
            os.kill(pid, signal.SIGTERM)
        process.communicate(timeout=120)
    run(arguments, ranks=2)
    losses = [
        [e["train/loss"] for e in curve if "train/loss" in e]
        for curve in (final_bits(tmp_path / "run")[3], expected[3])
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][:60] == pytest.approx(losses[1][:60], rel=1e-5)


def test_a_finished_run_is_not_repeated(trained, train_config):
    before = (trained / "result.json").stat().st_mtime_ns
    assert "finished already" in run(["train", train_config, f"run={trained}", *TRAINING])
    assert (trained / "result.json").stat().st_mtime_ns == before


def test_other_settings_in_the_same_run_folder_are_refused(trained, train_config, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")  # a refused start forgets how the one before ended
    printed = run(["train", train_config, f"run={folder}", *TRAINING, "optim.lr=0.1"], code=2)
    assert "holds a run with optim.lr=0.003, not 0.1; choose another run= or remove it" in printed


def test_a_runs_own_checkpoint_wins_over_init(trained, train_config, tmp_path):
    """A requeued fine-tune continues; it does not start over from the pretrained model."""
    init = tmp_path / "init"
    shutil.copytree(trained / "model", init)
    tune = ["train", train_config, *TRAINING[3:], f"init={init}", "optim.epochs=40", "checkpoint.every_steps=4"]
    run([*tune, f"run={tmp_path / 'whole'}"])
    process = start([*tune, f"run={tmp_path / 'cut'}"])
    wait_for_step(process, tmp_path / "cut", 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    shutil.rmtree(init)  # not even needed any more: the checkpoint knows architecture and scales
    assert f"continuing {tmp_path / 'cut'} after step" in run([*tune, f"run={tmp_path / 'cut'}"])
    assert final_bits(tmp_path / "cut") == final_bits(tmp_path / "whole")


def test_a_run_folder_serves_one_process_at_a_time(train_config, tmp_path):
    arguments = ["train", train_config, f"run={tmp_path / 'run'}", *LONG, "optim.epochs=400"]
    process = start(arguments)
    wait_for_step(process, tmp_path / "run", 5)
    assert f"another process is training in {tmp_path / 'run'}" in run(arguments, code=2)
    process.terminate()
    assert "saved after step" in process.communicate(timeout=60)[0]
    assert json.loads((tmp_path / "run" / "outcome.json").read_text())["status"] == "saved"


def test_damaged_checkpoints_are_never_silently_replaced_by_a_start_from_nothing(train_config, tmp_path):
    arguments = ["train", train_config, f"run={tmp_path / 'run'}", *LONG]
    process = start(arguments)
    wait_for_step(process, tmp_path / "run", 20)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for weights in (tmp_path / "run" / "checkpoints").glob("step-*/model.safetensors"):
        weights.write_bytes(b"damaged")
    printed = run(arguments, code=2)
    assert f"no checkpoint in {tmp_path / 'run'} is whole; remove the run folder to start over" in printed


def test_a_timed_checkpoint_comes_without_any_other(train_config, tmp_path):
    timed = ["checkpoint.every_minutes=0.0001", "checkpoint.every_epochs=null", "checkpoint.keep=1000"]
    run(["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, *timed])
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) > 3


def test_a_stale_outcome_never_outlives_a_start(trained, train_config, tmp_path):
    folder = tmp_path / "run"
    arguments = ["train", train_config, f"run={folder}", *TRAINING]
    run(arguments)
    (folder / "outcome.json").write_text('{"status": "saved", "why": "", "step": 0}')
    run([*arguments, "optim.lr=0.1"], code=2)
    assert not (folder / "outcome.json").exists()
    run(arguments)
    assert json.loads((folder / "outcome.json").read_text())["status"] == "finished"


def test_a_lock_that_a_lost_node_left_is_waited_for(train_config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    arguments = ["train", train_config, f"run={folder}", *TRAINING]
    with lock(folder / ".lock", "held"):
        assert "choose another run=, wait for process" in run(arguments, code=2)
        again = clean_environment(SLURM_RESTART_COUNT="1")
        process = subprocess.Popen(warm_command(arguments), env=again, stderr=subprocess.PIPE, text=True)
        told = process.stderr.readline()
        assert told.startswith(f"fmsci: {folder}: waiting for process {os.getpid()} on ")
        assert process.poll() is None
    assert process.wait(timeout=60) == 0
    process.stderr.close()


@pytest.mark.distributed
def test_the_test_error_comes_with_the_result_on_several_ranks(trained, train_config, poisson_data, tmp_path):
    arguments = ["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, "--test", "--json"]
    result = json.loads(run(arguments, ranks=3).splitlines()[-1])
    assert result["test"]["count"] == 5
    evaluated = run(["evaluate", tmp_path / "run" / "model", "--data", poisson_data, "--json"])
    assert json.loads(evaluated.splitlines()[-1])["rel_l2"] == pytest.approx(result["test"]["rel_l2"], rel=1e-6)


@pytest.mark.distributed
def test_rank_0_chooses_the_checkpoint_for_all(undisturbed, train_config, tmp_path):
    """Another rank may see other checkpoints on a shared file system: here it sees one that rank 0 does not."""
    ranks, expected = undisturbed
    if ranks is None:
        pytest.skip("a process alone chooses for itself")
    own, other = tmp_path / "own", tmp_path / "other"
    arguments = ["train", train_config, *LONG]
    process = start([*arguments, f"run={own}"], ranks)
    wait_for_step(process, own, 16)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    _wait_until_gone(own)
    shutil.copytree(own, other)
    newest = newest_checkpoint(own)[0]
    shutil.copytree(newest, other / "checkpoints" / "step-00000119")
    processes = world(arguments, 2, [0, 1], *free_ports(), [[f"run={own}"], [f"run={other}"]])
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert f"continuing {own} after step {int(newest.name[5:])}" in printed[0]
    assert final_bits(own) == expected
