"""Being asked to stop, by real signals; one rank's failure; memory."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fmsci.generate.run as generation
from fmsci.config import GenerateSettings, parse
from fmsci.errors import Interrupted, UserError
from fmsci.generate import generate
from fmsci.locks import LOCK, lock
from fmsci.world import World
from tests.commands import clean_environment, command, run
from tests.generate.folders import SMALL, contents, rank_processes, stop

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


def settings(folder):
    given = {"system": "poisson", "range": [1, 5], "grid": 16, "train": 37, "valid": 9, "test": 8, "shard_samples": 8}
    return parse(GenerateSettings, {**given, "output": str(folder)}, "here")


def test_a_signal_while_kept_shards_are_verified_is_answered_at_once(tmp_path, monkeypatch, capsys):
    generate(settings(tmp_path), World())
    before = contents(tmp_path)
    seen = []

    def look(folder, layout, inspect=generation.inspect_shard):
        seen.append(layout.file)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)
        return inspect(folder, layout)

    monkeypatch.setattr(generation, "inspect_shard", look)
    with pytest.raises(Interrupted, match="3 of 8 shards are finished and verified in"):
        generate(settings(tmp_path), World())
    assert "verify poisson (1, 5): 24 of 54 samples" in capsys.readouterr().out
    assert contents(tmp_path) == before


@pytest.mark.mpi
def test_a_signal_to_one_rank_ends_the_verifying_of_all(tmp_path):
    run(["generate", *SMALL, "shard_samples=1", f"output={tmp_path}"])
    look = (
        "import os, signal, sys, time, fmsci.generate.run as run\n"
        "from fmsci.world import detect_world\n"
        "seen, inspect = [], run.inspect_shard\n"
        "def look(folder, layout):\n"
        "    seen.append(layout)\n"
        "    time.sleep(0.1)\n"
        "    if detect_world().rank == 1 and len(seen) == 3:\n"
        "        signal.raise_signal(signal.SIGUSR2)\n"
        "    return inspect(folder, layout)\n"
        "run.inspect_shard = look\n"
        "from fmsci.cli import main\n"
        "main()\n"
    )
    words = command(["generate", *SMALL, "shard_samples=1", f"output={tmp_path}"], ranks=3)
    at = words.index("-m")
    words[at : at + 2] = ["-c", look]
    done = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 75, done.stderr
    (finished,) = {
        int(line.split(" of 54 shards are")[0].split()[-1])
        for line in done.stderr.splitlines()
        if " of 54 shards are finished" in line
    }
    assert 3 <= finished < 40


def test_a_signal_while_the_manifest_is_written_changes_nothing(tmp_path, monkeypatch):
    def build(*arguments, build=generation.merge):
        signal.raise_signal(signal.SIGINT)
        return build(*arguments)

    monkeypatch.setattr(generation, "merge", build)
    assert generate(settings(tmp_path), World()).splits["train"].count == 37
    with pytest.raises(KeyboardInterrupt):  # its time is over
        signal.raise_signal(signal.SIGINT)


def test_a_shard_that_cannot_be_published_leaves_nothing_of_the_next(tmp_path):
    """Neither its file nor its handle: a program may go on after such an error."""
    generate(settings(tmp_path), World())
    for number in (0, 1):
        (tmp_path / f"train/shard-0000{number}.h5").unlink()
    (tmp_path / "train/shard-00000.h5").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*shard-00000.h5: Is a directory"):
        generate(settings(tmp_path), World())
    assert not list(tmp_path.rglob(".aside-*"))
    opened = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists()]
    assert not [path for path in opened if path.startswith(str(tmp_path))]


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [None, 2])
def test_a_data_folder_serves_one_process_at_a_time(tmp_path, ranks):
    """The second start leaves everything of the first in its place, and the first goes on."""
    folder = tmp_path / "data"
    process = start(folder, ranks)
    try:
        wait_for_shards(folder, 2)
        first = rank_processes(folder)
        stop(first)
        while not any(folder.rglob(".aside-*")):  # not in the middle of a shard: a little later
            for rank in first:
                os.kill(rank, signal.SIGCONT)
            time.sleep(0.01)
            stop(first)
        files = sorted(folder.rglob("*"))
        said = run(["generate", *REQUEST, f"output={folder}"], ranks, code=2)
        assert sorted(folder.rglob("*")) == files
        assert f"another process is making data in {folder}; choose another output=, wait for process" in said
        assert "Traceback" not in said
        os.kill(max(first), signal.SIGTERM)
        for rank in first:
            os.kill(rank, signal.SIGCONT)
        out, err = process.communicate(timeout=60)
    finally:
        for rank in rank_processes(folder):
            os.kill(rank, signal.SIGKILL)
        process.kill()
        process.communicate()
    assert process.returncode == 75, f"{out}\n{err}"


def test_a_finished_folder_that_can_only_be_read_needs_no_lock(tmp_path, monkeypatch):
    made = generate(settings(tmp_path), World())
    with lock(tmp_path / LOCK, "held"):
        with pytest.raises(UserError, match="another process is making data in"):
            generate(settings(tmp_path), World())
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere: it cannot be refused
        assert generate(settings(tmp_path), World()) == made


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
    assert f"fmsci: rank 1 on {socket.gethostname()}: " in done.stderr
    assert "the disk of rank one is gone" in done.stderr
    assert list(tmp_path.rglob("shard-*.h5"))


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [None, 2])
def test_a_wrong_sample_is_a_sentence_on_any_number_of_ranks(tmp_path, ranks):
    strict = "import fmsci.generate.samples as samples; samples.LARGEST_RESIDUAL = 1e-30\n"
    words = command(["generate", *SMALL, f"output={tmp_path}"], ranks)
    at = words.index("-m")
    words[at : at + 2] = ["-c", strict + "from fmsci.cli import main; main()"]
    done = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert re.search(r"sample \d+ of train does not solve poisson: the relative residual is .*e-1\d", done.stderr)
    assert "Traceback" not in done.stderr


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
