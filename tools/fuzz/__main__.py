#!/usr/bin/env python
"""Feed fmsci broken and malicious files: settings, samples, data, run and model folders, checkpoints, scaling points.

    python tools/fuzz                             10,000 cases and more, about half an hour on one core
    python tools/fuzz --cases 40 --target data    some of one kind
    python tools/fuzz --seed 7                    other cases

Every case changes something that was whole (the files beside this one) and gives it to the function that the command
calls.
It must be refused in one sentence (UserError), or be accepted for what it is. A case fails where it

- raises anything else: that is a traceback for a user's mistake,
- takes longer than 120 s, or asks for more than 3 GiB of memory,
- runs code, opens a connection, or writes outside its folder (seen by Python's own audit events; the file that links
  lead to is also looked at),
- is accepted although it means something else than it says: see ``check`` of each target.

hypothesis makes the cases, shrinks one that fails, and prints it. With one ``--seed`` they are the same every time.
Prints a table for docs/reliability.md; the exit code is 1 where a case failed.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from spoiling import VICTIM, Target
from targets import prepare

LONGEST_S = 120
MOST_BYTES = 3 << 30
CASES = {"settings": 2500, "status": 3000, "import": 2000, "data": 1500, "model": 2000, "checkpoint": 500}
CASES |= {"scaling": 1000}
NEVER = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
    "socket.bind",
}
"""Audit events that no file may cause."""


class Hung(BaseException):
    """A case that takes too long."""


class Escaped(BaseException):
    """A case that did what no file may make a program do."""


class Guard:
    """Watches what a case does."""

    def __init__(self) -> None:
        tempfile.gettempdir()  # it tries where it can write when it is first asked
        self.place: Path | None = None
        self.seen = ""
        sys.addaudithook(self._hear)
        signal.signal(signal.SIGALRM, self._hang)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.place is None:
            return
        if event in NEVER:
            self.seen = f"{event} {arguments!r:.200}"
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path, mode, flags = Path(os.fsdecode(arguments[0])), arguments[1] or "", arguments[2] or 0
            writes = any(letter in mode for letter in "wax+") or flags & (os.O_WRONLY | os.O_RDWR)
            real = path.parent.resolve() / path.name if flags & os.O_NOFOLLOW else path.resolve()
            if writes and path != Path(os.devnull) and not real.is_relative_to(self.place):
                self.seen = f"wrote {path}"
        if event == "import" and self.place is not None and str(arguments[1] or "").startswith(str(self.place)):
            self.seen = f"imported {arguments[1]}"

    def _hang(self, *_: object) -> None:
        faulthandler.dump_traceback()
        raise Hung(f"longer than {LONGEST_S} s")

    @contextmanager
    def watching(self, place: Path) -> Iterator[None]:
        """Within the block nothing may run, connect, hang, or write outside ``place``."""
        self.place, self.seen = place.resolve(), ""
        signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
        try:
            with (
                Path(os.devnull).open("w") as nothing,
                redirect_stdout(nothing),
                redirect_stderr(nothing),
            ):
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.place = None
        if self.seen:
            raise Escaped(self.seen)


def main() -> int:
    """Run the chosen cases; return the exit code."""
    from fmsci.shards import writer

    parser = argparse.ArgumentParser(description="Feed fmsci broken and malicious files.")
    parser.add_argument("--target", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--cases", type=int, help="of each target; 12,500 in all if not given")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    guard, failed, rows = Guard(), False, []
    memory = Path("/dev/shm")  # a case is some files: in memory they cost little
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        place = Path(name)
        (place / "victim").write_text(VICTIM)
        targets = prepare(place / "whole", chosen.target)
        writer.MEMORY = str(place / "case")  # shards are laid out where the guard allows it
        resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes() + MOST_BYTES, resource.RLIM_INFINITY))
        for target in targets:
            begun, counts = time.monotonic(), Counter[str]()
            try:
                run(target, guard, place / "case", chosen.cases or CASES[target.name], chosen.seed, counts)
                ended = "all as they should"
            except BaseException as error:  # a find, several finds, or Ctrl-C
                if isinstance(error, KeyboardInterrupt):
                    raise
                sys.excepthook(type(error), error, error.__traceback__)
                failed, ended = True, "FAILED"
            number = sum(counts.values())
            seconds = round(time.monotonic() - begun)
            rows.append((target.name, number, seconds, counts["refused"], counts["accepted"], ended))
            print(f"{target.name}: {number} cases in {seconds} s", file=sys.stderr, flush=True)
    print("| files | cases | seconds | refused in one sentence | accepted | |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) + " |")
    return int(failed)


def run(target: Target, guard: Guard, place: Path, number: int, start: int, counts: Counter[str]) -> None:
    """Try so many cases of a target; raise what the smallest failing one raises."""

    @seed(start)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(target.cases)
    def one(case: Any) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        target.make(case, place)
        with guard.watching(place):
            accepted = refusal_of(target, place, case)
        assert (place.parent / "victim").read_text() == VICTIM, "a file outside was changed"
        counts["accepted" if accepted else "refused"] += 1

    one()


def refusal_of(target: Target, place: Path, case: Any) -> bool:
    """Return whether a case was accepted; it was refused where it raises what the command tells in one sentence."""
    from fmsci.cli import NOT_OURS_TO_USE
    from fmsci.errors import UserError

    try:
        found = target.use(place, case)
    except UserError as error:
        sentence = str(error)
        assert 0 < len(sentence) < 2000, f"no sentence: {sentence[:300]!r}"
        return False
    except OSError as error:
        if error.filename is None or error.errno not in NOT_OURS_TO_USE:
            raise
        return False
    target.check(found, place, case)
    return True


def virtual_bytes() -> int:
    """Return the address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
