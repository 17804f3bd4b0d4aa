#!/usr/bin/env python
"""Break training runs on purpose and see that nothing is lost: moment x fault x engine, two ranks each.

    python tools/fault_matrix.py                               all, about a minute for every four cells on 2 cores
    python tools/fault_matrix.py --engine ddp zero2 --fault kill term --moment train

Every cell starts a run, waits for the moment, breaks it, starts the same command again until it is finished, and
compares the last checkpoint's weights and optimizer state, bit by bit, with those of a run that nothing disturbed.
Prints the table of docs/reliability.md; fails where a cell does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

MOMENTS = ("train", "validate", "save")
FAULTS = ("kill", "term", "usr2", "lost-rank", "damaged")
ENGINES = {"ddp": ["engine.kind=ddp"]}
ENGINES |= {f"zero{stage}": ["engine.kind=zero", f"engine.zero_stage={stage}"] for stage in (1, 2, 3)}
FMSCI = [sys.executable, "-m", "fmsci"]
SETTINGS = ["model.width=8", "model.modes=4", "optim.batch_size=5", "optim.epochs=40", "checkpoint.every_steps=7"]
SETTINGS += ["checkpoint.keep=3", "monitor.every_steps=1", "monitor.validate_steps=5", "monitor.pictures=false"]
RANKS = 2


def main() -> int:
    """Run the chosen cells; return the exit code."""
    parser = argparse.ArgumentParser(description="Break training runs on purpose and see that nothing is lost.")
    for name, choices in (("engine", ENGINES), ("fault", FAULTS), ("moment", MOMENTS)):
        parser.add_argument(f"--{name}", nargs="+", choices=choices, default=list(choices))
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    table: dict[tuple[str, str, str], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = prepare(Path(folder))
        for engine in chosen.engine:
            arguments = [*base, *ENGINES[engine]]
            whole = Path(folder) / f"whole-{engine}"
            finish([*arguments, f"run={whole}"])
            for moment in chosen.moment:
                for fault in chosen.fault:
                    run = Path(folder) / f"{engine}-{moment}-{fault}"
                    result = cell([*arguments, f"run={run}"], run, whole, moment, fault)
                    table[engine, moment, fault] = result
                    print(f"{engine:6} {moment:9} {fault:10} {result}", file=sys.stderr, flush=True)
                    shutil.rmtree(run, ignore_errors=True)
    print("| moment | fault | " + " | ".join(chosen.engine) + " |")
    print("|---|---|" + "---|" * len(chosen.engine))
    for moment in chosen.moment:
        for fault in chosen.fault:
            cells = [table[engine, moment, fault] for engine in chosen.engine]
            print(f"| {moment} | {fault} | " + " | ".join(cells) + " |")
    return int(any(result != "same bits" for result in table.values()))


def prepare(folder: Path) -> list[str]:
    """Make the data; return the training command."""
    sizes = ["--grid", "16", "--train", "13", "--valid", "70", "--test", "2"]
    data = ["--system", "poisson", "--range", "1", "5", "--output", str(folder / "data")]
    subprocess.run([*FMSCI, "generate", *data, *sizes], check=True, capture_output=True)
    config = folder / "train.yaml"
    config.write_text(f"run: unset\ndata: {{path: {folder / 'data'}}}\noptim: {{epochs: 1}}\n")
    launcher = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(RANKS)]
    return [*launcher, *FMSCI, "train", str(config), *SETTINGS]


def cell(arguments: list[str], run: Path, whole: Path, moment: str, fault: str) -> str:
    """Break one run and mend it; say how it ended."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_for(moment, run, process)
        ranks = rank_processes(run)
        BREAK[fault](process, ranks)
        process.communicate(timeout=60)
        if fault in {"term", "usr2"} and process.returncode != 75:
            return f"exit code {process.returncode}, not 75"
        if fault == "damaged":
            newest = sorted((run / "checkpoints").glob("step-*"))[-1] / "model.safetensors"
            newest.write_bytes(newest.read_bytes()[:-1] + b"\x01")
        gone(ranks)
        finish(arguments)
    except (subprocess.SubprocessError, TimeoutError) as error:
        return f"failed: {type(error).__name__}"
    return "same bits" if final(run) == final(whole) else "other bits"


def wait_for(moment: str, run: Path, process: subprocess.Popen[bytes]) -> None:
    """Return at the moment: between steps, in a validation, or while a checkpoint is being written."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        last = last_entry(run)
        if last.get("step", 0) >= 20:
            if moment == "train" and last["step"] % 5 == 2:
                return
            if moment == "validate" and "train/loss" in last and last["step"] % 5 == 0:
                return
            if moment == "save" and any((run / "checkpoints").glob(".aside-*")):
                return
        time.sleep(0.0005)
    raise TimeoutError(f"{run.name}: the moment never came")


def last_entry(run: Path) -> dict[str, float]:
    """Return the last whole entry of metrics.jsonl."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return dict(json.loads(lines[-1])) if lines else {}


def rank_processes(run: Path) -> list[int]:
    """Return the process numbers of the ranks, in order of their start; not that of their launcher."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:1] == [sys.executable.encode()] and f"run={run}".encode() in words:
                found.append(int(entry.name))
    return sorted(found)


def send(number: signal.Signals) -> Callable[[subprocess.Popen[bytes], list[int]], None]:
    """Return a fault that signals all ranks."""

    def act(process: subprocess.Popen[bytes], ranks: list[int]) -> None:
        for pid in ranks:
            os.kill(pid, number)

    return act


def kill_all(process: subprocess.Popen[bytes], ranks: list[int]) -> None:
    """Kill the launcher and every rank."""
    os.killpg(process.pid, signal.SIGKILL)
    for pid in ranks:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_one(process: subprocess.Popen[bytes], ranks: list[int]) -> None:
    """Kill the last rank alone."""
    os.kill(ranks[-1], signal.SIGKILL)


BREAK = {
    "kill": kill_all,
    "term": send(signal.SIGTERM),
    "usr2": send(signal.SIGUSR2),
    "lost-rank": kill_one,
    "damaged": kill_all,
}


def gone(ranks: list[int]) -> None:
    """Wait until the ranks have ended."""
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        if time.monotonic() > end:
            raise TimeoutError("ranks outlived their launcher")
        time.sleep(0.05)


def finish(arguments: list[str]) -> None:
    """Run the command to its end."""
    subprocess.run(arguments, check=True, capture_output=True, timeout=300)


def final(run: Path) -> list[bytes]:
    """Return the bytes of the last checkpoint's tensors and of the best model."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    files = [newest / "model.safetensors", newest / "optimizer.safetensors", run / "model" / "model.safetensors"]
    return [newest.name.encode(), *(path.read_bytes() for path in files)]


if __name__ == "__main__":
    sys.exit(main())
