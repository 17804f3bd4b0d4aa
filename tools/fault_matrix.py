#!/usr/bin/env python
"""Break training and generation on purpose and see that nothing is lost: moment x fault x engine, two ranks each.

    python tools/fault_matrix.py                               all 78 cells, 15 to 25 s each on 2 cores
    python tools/fault_matrix.py --record cells.json --minutes 9   a part of them; again, and it goes on with the others
    python tools/fault_matrix.py --engine ddp zero2 --fault kill term --moment train
    python tools/fault_matrix.py --engine --fault damaged      generation alone

Every cell starts a run, waits for the moment, breaks it, starts the same command again until it is finished, and
compares the last checkpoint's weights and optimizer state, the best model and the curve, bit by bit, with those of a
run that nothing disturbed; for generation every file and the manifest. And it must see its fault: exit code and
sentence of the broken start, a stop in a validation inside it, a damaged checkpoint named by the second start, a lost
rank with its host by the rank that is left (which is started without mpiexec, as that would end it first).

Prints the tables of docs/reliability.md; fails where a cell does. ``--record`` keeps what came out and does not repeat
cells that held; with ``--minutes`` no cell begins later, and the exit code is 75 until all have been reached. A full
disk is a small file system in memory, for which the cell needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
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
SETTINGS += ["checkpoint.keep=3", "monitor.every_steps=1", "monitor.validate_steps=10", "monitor.pictures=false"]
RANKS = 2
LAUNCHER = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(RANKS)]
SAVED = ("same bits", "not run: needs root")
"""What a cell may say."""
NOT_REACHED = "not reached"
HOST = socket.gethostname()
Key = tuple[str, str, str]


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


def main() -> int:
    """Run the chosen cells; return the exit code."""
    parser = argparse.ArgumentParser(description="Break training and generation on purpose; see that nothing is lost.")
    for name, choices in (("engine", ENGINES), ("fault", FAULTS), ("moment", MOMENTS)):
        parser.add_argument(f"--{name}", nargs="*", choices=choices, default=list(choices))
    parser.add_argument("--no-generation", dest="generation", action="store_false")
    parser.add_argument("--record", type=Path, help="a JSON file of what came out; cells that held are not repeated")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no cell after so many minutes")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found = Cells(chosen.record, 60 * chosen.minutes)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        left = found.left(["generation"] * chosen.generation, ["generate"], chosen.fault)
        if left:
            whole = generation(base / "whole-data")
            finish(whole.arguments)
            for key in left:
                found.tell(key, generation(base / key[2] / "data"), whole)
        command = prepare(base) if found.left(chosen.engine, chosen.moment, chosen.fault) else []
        for engine in chosen.engine:
            left = found.left([engine], chosen.moment, chosen.fault)
            if not left:
                continue
            arguments = [*command, *ENGINES[engine]]
            whole = training(arguments, base / f"whole-{engine}", "train")
            finish(whole.arguments)
            for key in left:
                found.tell(key, training(arguments, base / "-".join(key) / "run", key[1]), whole)
    for columns, moments in ((["generation"] * chosen.generation, ["generate"]), (chosen.engine, chosen.moment)):
        if columns:
            show(found, columns, moments, chosen.fault)
    asked = [*keys(["generation"] * chosen.generation, ["generate"], chosen.fault)]
    asked += keys(chosen.engine, chosen.moment, chosen.fault)
    results = [found[key] for key in asked]
    if any(result not in (*SAVED, NOT_REACHED) for result in results):
        return 1
    return 75 if NOT_REACHED in results else 0


def keys(columns: list[str], moments: list[str], faults: list[str]) -> list[Key]:
    """Return the cells of a table."""
    return [(one, moment, fault) for one in columns for moment in moments for fault in faults]


class Cells:
    """What came out of each cell, kept in a file where one is given."""

    def __init__(self, record: Path | None, seconds: float) -> None:
        self._record, self._end = record, time.monotonic() + seconds
        kept = json.loads(record.read_text()) if record is not None and record.exists() else {}
        self._found: dict[str, str] = {name: said for name, said in kept.items() if said in SAVED}

    def __getitem__(self, key: Key) -> str:
        return self._found.get(" ".join(key), NOT_REACHED)

    def left(self, columns: list[str], moments: list[str], faults: list[str]) -> list[Key]:
        """Return the cells of a table that are still to be run; none when the time is over."""
        if time.monotonic() > self._end:
            return []
        return [key for key in keys(columns, moments, faults) if self[key] == NOT_REACHED]

    def tell(self, key: Key, subject: Subject, whole: Subject) -> None:
        """Run a cell, if there is time, and say what came out of it."""
        begun = time.monotonic()
        if begun > self._end:
            return
        with disk(subject.folder.parent, small=key[2] == "disk-full") as there:
            said = cell(subject, key[2], whole) if there else SAVED[1]
        print(f"{' '.join(key):32} {said} ({time.monotonic() - begun:.0f} s)", file=sys.stderr, flush=True)
        self._found[" ".join(key)] = said
        if self._record is not None:
            aside = self._record.with_suffix(".new")
            aside.write_text(json.dumps(self._found, indent=1) + "\n")
            aside.replace(self._record)


def show(found: Cells, columns: list[str], moments: list[str], faults: list[str]) -> None:
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


# ------------------------------------------------------------------ training


def prepare(folder: Path) -> list[str]:
    """Make the data; return the training command."""
    sizes = ["--grid", "16", "--train", "13", "--valid", "1000", "--test", "2"]
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
        return last["step"] % 10 == 2 if moment == "train" else "train/loss" in last and last["step"] % 10 == 0

    def inside() -> bool:
        state = json.loads((newest(run) / "state.json").read_text())
        return moment != "validate" or state["position"]["validation_due"]

    def kept(printed: str, damaged: bool) -> bool:  # a checkpoint comes every 7 steps
        told = re.search(
            rf"checkpoint {run}/checkpoints/step-\d+ is damaged \(model.safetensors has changed\)", printed
        )
        goes_on = any(int(step) >= 7 for step in re.findall(r"continuing \S+ after step (\d+)", printed))
        return goes_on and (told is not None) == damaged

    def begun() -> bool:
        return last_entry(run).get("step", 0) > 0

    arguments = [*arguments, f"run={run}"]
    return Subject(arguments, run, begun, now, inside, True, spoil_newest, kept, trained)


def last_entry(run: Path) -> dict[str, float]:
    """Return the last whole entry of metrics.jsonl."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return dict(json.loads(lines[-1])) if lines else {}


def newest(run: Path) -> Path:
    """Return the newest checkpoint."""
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def spoil_newest(run: Path) -> None:
    """Change the last byte of the newest checkpoint's weights."""
    spoil(newest(run) / "model.safetensors")


def spoil(path: Path) -> None:
    """Change the last byte of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def trained(run: Path) -> tuple[list[bytes], list[dict[str, float]]]:
    """Return the bytes of the last checkpoint's tensors and of the best model, and the curve without times."""
    last = newest(run)
    files = [last / "model.safetensors", last / "optimizer.safetensors", run / "model" / "model.safetensors"]
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    differs = ("perf/", "memory/")
    curve = [{key: value for key, value in entry.items() if not key.startswith(differs)} for entry in entries]
    return [last.name.encode(), *(path.read_bytes() for path in files)], curve


# ------------------------------------------------------------------ generation


def generation(folder: Path) -> Subject:
    """Return a data folder whose making is broken when it has some shards."""
    sizes = ["grid=64", "train=1600", "valid=32", "test=32", "shard_samples=16"]
    arguments = [*LAUNCHER, *FMSCI, "generate", "system=poisson", "range=[1,5]", *sizes, f"output={folder}"]

    def shards() -> list[Path]:
        return sorted(folder.glob("*/shard-*.h5"))

    def kept(printed: str, damaged: bool) -> bool:
        return "verify poisson" in printed  # the spoilt shard is made anew: its bits tell that it was noticed

    def begun() -> bool:
        return len(shards()) > 0

    def now() -> bool:
        return len(shards()) >= 8

    return Subject(arguments, folder, begun, now, lambda: True, False, lambda _: spoil(shards()[0]), kept, made)


def made(folder: Path) -> tuple[dict[str, bytes], Any]:
    """Return the bytes of every file of data, and the manifest but for when and by what it was made."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("provenance")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.h5")}, manifest


if __name__ == "__main__":
    sys.exit(main())
