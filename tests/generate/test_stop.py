"""Being asked to stop, by real signals; one rank's failure; memory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import clean_environment, command, run
from tests.generate.folders import contents

REQUEST = ["system=poisson", "range=[1,5]", "grid=64", "train=12000", "valid=8", "test=8", "shard_samples=32"]


def start(folder, ranks):
    return subprocess.Popen(
        command(["generate", *REQUEST, f"output={folder}"], ranks),
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_shards(folder, count):
    deadline = time.monotonic() + 60
    while len(list(folder.rglob("shard-*.h5"))) < count:
        assert time.monotonic() < deadline, "no shards appear"
        time.sleep(0.01)


def rank_processes(folder):
    """Return the processes that make this folder, without their launcher, as a scheduler would signal them."""
    found = []
    for process in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [process] if words[1:3] == ["-m", "fmsci"] and f"output={folder}" in words else []
    return found


@pytest.mark.mpi
@pytest.mark.parametrize(("ranks", "number"), [(None, signal.SIGTERM), (None, signal.SIGUSR2), (2, signal.SIGUSR2)])
def test_a_signal_finishes_the_shard_and_exits_75(tmp_path, ranks, number):
    """With several ranks only one gets the signal: all stop."""
    process = start(tmp_path / "data", ranks)
    try:
        wait_for_shards(tmp_path / "data", 6)
        os.kill(max(rank_processes(tmp_path / "data")), number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, f"exit code {process.returncode}\n{out}\n{err}"
    assert "shards are finished" in err
    assert "start the same command again" in err
    assert not list(tmp_path.rglob(".aside-*"))
    assert not (tmp_path / "data/manifest.json").exists()
    shards = {path: path.read_bytes() for path in (tmp_path / "data").rglob("shard-*.h5")}
    assert 6 <= len(shards) < 375
    small = [word for word in REQUEST if not word.startswith("train")]
    run(["generate", *small, "train=12000", f"output={tmp_path / 'data'}"])
    assert all(path.read_bytes() == content for path, content in shards.items())
    assert contents(tmp_path / "data")[1]["splits"]["train"]["count"] == 12000


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [None, 2])
def test_a_data_folder_serves_one_process_at_a_time(tmp_path, ranks):
    """The second start leaves everything of the first in its place, and the first goes on."""
    folder = tmp_path / "data"
    process = start(folder, ranks)
    try:
        wait_for_shards(folder, 2)
        said = run(["generate", *REQUEST, f"output={folder}"], ranks, code=2)
        assert f"another process is making data in {folder}; choose another output=, wait for process" in said
        assert "Traceback" not in said
        assert process.poll() is None, process.communicate()
        os.kill(max(rank_processes(folder)), signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, f"{out}\n{err}"


@pytest.mark.mpi
def test_one_ranks_failure_ends_the_job_with_its_message(tmp_path):
    """The second rank cannot write its shard: the first must not wait for ever, and its shards stay."""
    failing = (
        "import sys, fmsci.generate.run as run\n"
        "from fmsci.world import detect_world\n"
        "make = run._make_shard\n"
        "def fail(folder, request, task, tell):\n"
        "    if detect_world().rank == 1:\n"
        "        import time; time.sleep(0.5)\n"
        "        raise RuntimeError('the disk of rank one is gone')\n"
        "    return make(folder, request, task, tell)\n"
        "run._make_shard = fail\n"
        "from fmsci.cli import main\n"
        "main()\n"
    )
    words = command(["generate", *REQUEST, f"output={tmp_path}"], ranks=2)
    at = words.index("-m")
    words[at : at + 2] = ["-c", failing]
    done = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode not in (0, 2, 75)
    assert "rank 1 of 2" in done.stderr
    assert "the disk of rank one is gone" in done.stderr
    assert list(tmp_path.rglob("shard-*.h5"))


@pytest.mark.mpi
def test_progress_is_told_by_rank_0_alone_with_rate_and_time_left(tmp_path):
    said = run(["generate", *REQUEST[:3], "train=600", *REQUEST[4:], f"output={tmp_path}"], ranks=3)
    (line,) = [line for line in said.splitlines() if line.startswith("poisson (1, 5):")]
    assert "616 of 616 samples" in line
    assert "/s" in line


@pytest.mark.parametrize("system", ["poisson", "helmholtz"])
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path, system):
    """Peak memory of 16 times the samples is the same to 4 MiB."""

    def peak(samples):
        script = (
            "import resource, sys\n"
            "from fmsci.cli import main\n"
            "try:\n    main()\nfinally:\n    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        request = [f"system={system}", "range=[5,9]", "grid=16", f"train={samples}", "valid=1", "test=1"]
        words = [sys.executable, "-c", script, "generate", *request, f"output={tmp_path / str(samples)}"]
        done = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=120, check=True)
        return int(done.stdout.splitlines()[-1])

    assert peak(16000) - peak(1000) < 4096


def test_json_is_the_last_line(tmp_path):
    said = run(["generate", *REQUEST[:2], "grid=8", "train=2", "valid=1", "test=1", f"output={tmp_path}", "--json"])
    assert json.loads(said.splitlines()[-1])["samples"]["train"] == 2
