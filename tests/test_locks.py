"""A lock says who holds it, ends with its holder, and harms nothing else."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import time

import pytest

from fmsci import locks
from fmsci.errors import UserError
from fmsci.locks import can_lock, is_locked, lock


def test_a_held_lock_names_its_holder_and_ends_with_it(tmp_path):
    path = tmp_path / "run" / ".lock"
    path.parent.mkdir()
    path.write_text("process 123456 on a host that held it long ago, with a longer name\n")
    hold = "import sys, time; from pathlib import Path; from fmsci.locks import lock\n"
    hold += "with lock(Path(sys.argv[1]), 'r'):\n    print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError) as refused, lock(path, "choose another run="):
            pass
        host = socket.gethostname()
        assert str(refused.value) == f"choose another run=, wait for process {holder.pid} on {host}, or stop it"
        begun, told = time.monotonic(), []
        with pytest.raises(UserError, match="wait for process"), lock(path, "choose another run=", 0.3, told.append):
            pass
        assert 0.3 <= time.monotonic() - begun < 5
        assert told == [f"process {holder.pid} on {host}"]
    finally:
        holder.kill()
        holder.communicate()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/\.lock: "), lock(tmp_path / "file" / ".lock", "refused"):
        pytest.fail("a lock that nobody holds")
    with lock(path, "choose another run="):
        assert path.read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_a_lock_that_is_a_link_harms_nothing(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    with (
        pytest.raises(
            UserError, match=r"cannot write .*/\.lock: it is a symbolic link to another place; free or change"
        ),
        lock(tmp_path / "run" / ".lock", "refused"),
    ):
        pytest.fail("a lock that is somebody else's file")
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_lock_that_is_a_pipe_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(UserError, match="it is a pipe or a device, not a file"), lock(tmp_path / ".lock", "refused"):
        pytest.fail("a lock that is a pipe")
    assert not is_locked(tmp_path / ".lock")


@pytest.fixture
def without_locks(monkeypatch):
    """What the system says on a file system without locks, as Lustre mounted without flock."""

    def refuse(handle, operation):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    locks._tell_without_locks.cache_clear()


def test_a_file_system_without_locks_is_told_of_once(tmp_path, capsys, without_locks):
    for _ in range(3):
        with lock(tmp_path / "a", "refused"):
            pass
    told = f"fmsci: {tmp_path} is on a file system without locks: start nothing twice there, nobody would notice\n"
    assert capsys.readouterr().err == told
    assert not can_lock(tmp_path / "a")
    assert not is_locked(tmp_path / "a")
