#!/usr/bin/env python
"""Break training and generation on purpose and see that nothing is lost: moment x fault x engine, two ranks each.

    python tools/fault_matrix.py                               all 78 cells, 15 to 20 s each on 2 cores
    python tools/fault_matrix.py --engine ddp zero2 --fault kill term --moment train
    python tools/fault_matrix.py --engine --fault damaged      generation alone

Every cell starts a run, waits for the moment, breaks it, starts the same command again until it is finished, and
compares the last checkpoint's weights and optimizer state and the best model, bit by bit, with those of a run that
nothing disturbed; for generation every file and the manifest. Prints the tables of docs/reliability.md; fails where a
cell does. A full disk is a small file system in memory, for which the cell needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOMENTS = ("train", "validate", "save")
FAULTS = ("kill", "term", "usr2", "disk-full", "damaged", "lost-rank")
ENGINES = {"ddp": ["engine.kind=ddp"]}
ENGINES |= {f"zero{stage}": ["engine.kind=zero", f"engine.zero_stage={stage}"] for stage in (1, 2, 3)}
FMSCI = [sys.executable, "-m", "fmsci"]
SETTINGS = ["model.width=8", "model.modes=4", "optim.batch_size=5", "optim.epochs=40", "checkpoint.every_steps=7"]
SETTINGS += ["checkpoint.keep=3", "monitor.every_steps=1", "monitor.validate_steps=5", "monitor.pictures=false"]
RANKS = 2
LAUNCHER = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(RANKS)]
SAVED = ("same bits", "not run: needs root")
"""What a cell may say."""


@dataclass(frozen=True)
class Subject:
    """What a cell breaks: a command, the folder that it makes, when, and what must come out of it."""

    arguments: list[str]
    folder: Path
    moment: Callable[[], bool]
    damage: Callable[[Path], None]
    kept: Callable[[str], bool]
    """Whether what the second start says tells that it kept what the first one had finished."""
    outcome: Callable[[Path], Any]


def main() -> int:
    """Run the chosen cells; return the exit code."""
    parser = argparse.ArgumentParser(description="Break training and generation on purpose; see that nothing is lost.")
    for name, choices in (("engine", ENGINES), ("fault", FAULTS), ("moment", MOMENTS)):
        parser.add_argument(f"--{name}", nargs="*", choices=choices, default=list(choices))
    parser.add_argument("--no-generation", dest="generation", action="store_false")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[tuple[str, str, str], str] = {}
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        if chosen.generation:
            whole = generation(base / "whole-data")
            finish(whole.arguments)
            for fault in chosen.fault:
                tell(found, ("generation", "generate", fault), generation(base / fault / "data"), whole)
        command = prepare(base) if chosen.engine else []
        for engine in chosen.engine:
            arguments = [*command, *ENGINES[engine]]
            whole = training(arguments, base / f"whole-{engine}", "train")
            finish(whole.arguments)
            for moment in chosen.moment:
                for fault in chosen.fault:
                    place = base / f"{engine}-{moment}-{fault}" / "run"
                    tell(found, (engine, moment, fault), training(arguments, place, moment), whole)
    for columns, moments in ((["generation"] * chosen.generation, ["generate"]), (chosen.engine, chosen.moment)):
        if columns:
            show(found, columns, moments, chosen.fault)
    return int(any(result not in SAVED for result in found.values()))


def tell(found: dict[tuple[str, str, str], str], key: tuple[str, str, str], subject: Subject, whole: Subject) -> None:
    """Run a cell and say what came out of it."""
    begun = time.monotonic()
    with disk(subject.folder.parent, small=key[2] == "disk-full") as there:
        found[key] = cell(subject, key[2], whole) if there else SAVED[1]
    print(f"{' '.join(key):32} {found[key]} ({time.monotonic() - begun:.0f} s)", file=sys.stderr, flush=True)


def show(found: dict[tuple[str, str, str], str], columns: list[str], moments: list[str], faults: list[str]) -> None:
    """Print a table."""
    print("| moment | fault | " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for moment in moments:
        for fault in faults:
            print(f"| {moment} | {fault} | " + " | ".join(found[one, moment, fault] for one in columns) + " |")
    print()


# ------------------------------------------------------------------ one cell


def cell(subject: Subject, fault: str, whole: Subject) -> str:
    """Break one command and start it again; say how it ended."""
    process = subprocess.Popen(
        subject.arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True
    )
    try:
        wait_for(subject, process)
        ranks = rank_processes(subject)
        BREAK[fault](process, ranks, subject.folder.parent)
        printed = process.communicate(timeout=60)[0]
        code, said = EXPECTED.get(fault, (None, ""))
        if code not in (None, process.returncode) or said not in printed or "Traceback" in printed:
            return f"exit code {process.returncode}: {printed[-300:]!r}"
        gone(ranks)
        (subject.folder.parent / BALLAST).unlink(missing_ok=True)
        if fault == "damaged":
            subject.damage(subject.folder)
        again = finish(subject.arguments)
    except (subprocess.SubprocessError, TimeoutError, LookupError, OSError) as error:
        return f"failed: {error} {getattr(error, 'output', '')!r}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # nothing of this cell runs on beside the next
        process.wait()
    if not subject.kept(again):
        return f"began anew: {again[:300]!r}"
    return SAVED[0] if subject.outcome(subject.folder) == whole.outcome(whole.folder) else "other bits"


def wait_for(subject: Subject, process: subprocess.Popen[str]) -> None:
    """Return at the moment."""
    end = time.monotonic() + 120
    while not subject.moment():
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


# ------------------------------------------------------------------ training


def prepare(folder: Path) -> list[str]:
    """Make the data; return the training command."""
    sizes = ["--grid", "16", "--train", "13", "--valid", "70", "--test", "2"]
    finish([*FMSCI, "generate", "--system", "poisson", "--range", "1", "5", "--output", str(folder / "data"), *sizes])
    config = folder / "train.yaml"
    config.write_text(f"run: unset\ndata: {{path: {folder / 'data'}}}\noptim: {{epochs: 1}}\n")
    return [*LAUNCHER, *FMSCI, "train", str(config), *SETTINGS]


def training(arguments: list[str], run: Path, moment: str) -> Subject:
    """Return a run that is broken between steps, in a validation, or while a checkpoint is being written."""

    def now() -> bool:
        last = last_entry(run)
        if last.get("step", 0) < 20:
            return False
        if moment == "save":
            return any((run / "checkpoints").glob(".aside-*"))
        return last["step"] % 5 == 2 if moment == "train" else "train/loss" in last and last["step"] % 5 == 0

    def kept(printed: str) -> bool:  # a checkpoint comes every 7 steps
        return any(int(step) >= 7 for step in re.findall(r"continuing \S+ after step (\d+)", printed))

    return Subject([*arguments, f"run={run}"], run, now, spoil_newest, kept, trained)


def last_entry(run: Path) -> dict[str, float]:
    """Return the last whole entry of metrics.jsonl."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return dict(json.loads(lines[-1])) if lines else {}


def spoil_newest(run: Path) -> None:
    """Change the last byte of the newest checkpoint's weights."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1] / "model.safetensors"
    spoil(newest)


def spoil(path: Path) -> None:
    """Change the last byte of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def trained(run: Path) -> list[bytes]:
    """Return the bytes of the last checkpoint's tensors and of the best model."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    files = [newest / "model.safetensors", newest / "optimizer.safetensors", run / "model" / "model.safetensors"]
    return [newest.name.encode(), *(path.read_bytes() for path in files)]


# ------------------------------------------------------------------ generation


def generation(folder: Path) -> Subject:
    """Return a data folder whose making is broken when it has some shards."""
    sizes = ["grid=64", "train=1600", "valid=32", "test=32", "shard_samples=16"]
    arguments = [*LAUNCHER, *FMSCI, "generate", "system=poisson", "range=[1,5]", *sizes, f"output={folder}"]

    def shards() -> list[Path]:
        return sorted(folder.glob("*/shard-*.h5"))

    def kept(printed: str) -> bool:
        return "verify poisson" in printed

    return Subject(arguments, folder, lambda: len(shards()) >= 8, lambda _: spoil(shards()[0]), kept, made)


def made(folder: Path) -> tuple[dict[str, bytes], Any]:
    """Return the bytes of every file of data, and the manifest but for when and by what it was made."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("provenance")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.h5")}, manifest


if __name__ == "__main__":
    sys.exit(main())
