"""One cell of tools/fault_matrix.py: start a command, break it at its moment, start it again, compare."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FMSCI = [sys.executable, "-m", "fmsci"]
RANKS = 2
LAUNCHER = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(RANKS)]
SAVED = ("same bits", "not run: needs root")
"""What a cell may say."""
HOST = socket.gethostname()


@dataclass(frozen=True)
class Subject:
    """What a cell breaks: a command, the folder that it makes, when, and what must come out of it."""

    arguments: list[str]
    folder: Path
    begun: Callable[[], bool]
    """Whether all ranks are at work: they are looked for then."""
    moment: Callable[[], bool]
    stopped_there: Callable[[], bool]
    """Whether a start that saved did so in that moment."""
    alone: bool
    """Whether the ranks can be started without their launcher."""
    damage: Callable[[Path], None]
    kept: Callable[[str, bool], bool]
    """Whether what the second start says tells that it kept what the first one had finished, and (True) saw damage."""
    outcome: Callable[[Path], Any]


def cell(subject: Subject, fault: str, whole: Subject) -> str:
    """Break one command and start it again; say how it ended."""
    process, *others = started = begin(subject, fault)
    try:
        wait_for(subject.begun, subject, process)
        ranks = [one.pid for one in started] if others else rank_processes(subject)
        wait_for(subject.moment, subject, process)
        BREAK[fault](process, ranks, subject.folder.parent)
        printed = process.communicate(timeout=60)[0]
        code, said = EXPECTED.get(fault, (None, "")) if others or fault != "lost-rank" else (None, "")
        if code not in (None, process.returncode) or said not in printed or "Traceback" in printed:
            return f"exit code {process.returncode}: {printed[-300:]!r}"
        for one in others:
            one.communicate(timeout=60)
        gone(ranks)
        if code == 75 and not subject.stopped_there():
            return "stopped at another moment"
        (subject.folder.parent / BALLAST).unlink(missing_ok=True)
        if fault == "damaged":
            subject.damage(subject.folder)
        again = finish(subject.arguments)
    except (subprocess.SubprocessError, TimeoutError, LookupError, OSError) as error:
        return f"failed: {error} {getattr(error, 'output', '')!r}"
    finally:
        for one in started:
            with suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)  # nothing of this cell runs on beside the next
            one.wait()
    if not subject.kept(again, fault == "damaged"):
        return f"began anew: {again[:300]!r}"
    return SAVED[0] if subject.outcome(subject.folder) == whole.outcome(whole.folder) else "other bits"


def begin(subject: Subject, fault: str) -> list[subprocess.Popen[str]]:
    """Start the command; the ranks by themselves where one is to be lost: mpiexec would end the others at once."""
    worlds: list[dict[str, str]] = [{}]
    arguments = subject.arguments
    if fault == "lost-rank" and subject.alone:
        arguments = arguments[len(LAUNCHER) :]
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(trial.getsockname()[1])}
        common |= {"WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS)}
        worlds = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(RANKS)]
    return [
        subprocess.Popen(
            arguments,
            env=os.environ | world,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        for world in worlds
    ]


def wait_for(moment: Callable[[], bool], subject: Subject, process: subprocess.Popen[str]) -> None:
    """Return at the moment."""
    end = time.monotonic() + 120
    while not moment():
        if time.monotonic() > end or process.poll() is not None:
            raise TimeoutError(f"{subject.folder}: the moment never came")
        time.sleep(0.0005)


def rank_processes(subject: Subject) -> list[int]:
    """Return the process numbers of the ranks, in order of their start; not that of their launcher."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "cmdline").read_text().split("\0")
                if words[:1] == [sys.executable] and subject.arguments[-1] in words:
                    found.append(int(entry.name))
    return sorted(found)


def gone(ranks: list[int]) -> None:
    """Wait until the ranks have ended."""
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        if time.monotonic() > end:
            raise TimeoutError("ranks outlived their launcher")
        time.sleep(0.05)


def finish(arguments: list[str]) -> str:
    """Run a command to its end; return what it printed."""
    return subprocess.run(
        arguments, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, text=True
    ).stdout


# ------------------------------------------------------------------ faults

Fault = Callable[[subprocess.Popen[str], list[int], Path], None]


def send(number: signal.Signals, which: slice = slice(None), launcher: bool = False) -> Fault:
    """Return a fault that signals these ranks, and their launcher too."""

    def act(process: subprocess.Popen[str], ranks: list[int], place: Path) -> None:
        if launcher:
            os.killpg(process.pid, number)
        for pid in ranks[which]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    return act


BALLAST = "ballast"


def fill(process: subprocess.Popen[str], ranks: list[int], place: Path) -> None:
    """Leave no room on the disk, also of what is removed there, until the ranks have ended."""
    with (place / BALLAST).open("ab", buffering=0) as stream:
        while process.poll() is None and any(Path(f"/proc/{pid}").exists() for pid in ranks):
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while stream.write(bytes(size)) == size:
                        continue
            time.sleep(0.002)


@contextmanager
def disk(place: Path, small: bool) -> Iterator[bool]:
    """Make a folder, of a small file system where one is wanted; tell whether that was possible."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(place)]
    if small and (os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0):
        yield False
        return
    try:
        yield True
    finally:
        if small:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


KILL_ALL = send(signal.SIGKILL, launcher=True)
BREAK: dict[str, Fault] = {
    "kill": KILL_ALL,
    "term": send(signal.SIGTERM),
    "usr2": send(signal.SIGUSR2),
    "disk-full": fill,
    "damaged": KILL_ALL,
    "lost-rank": send(signal.SIGKILL, slice(-1, None)),
}
EXPECTED = {"term": (75, "start the same command again"), "usr2": (75, "start the same command again")}
EXPECTED["disk-full"] = (2, "No space left on device")
EXPECTED["lost-rank"] = (1, f"no sign of life from rank {RANKS - 1} on {HOST}, noticed by rank 0 on {HOST};")
