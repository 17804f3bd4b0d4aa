"""What a second process gains, and what it could gain at most, for tools/bench_engine.py."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from bench_jobs import FMSCI


def speedup(data: Path, folder: Path, size: str) -> tuple[float, float, float]:
    """Return samples per second of one process, two, and two runs apart, one after the other, by their own record.

    The global batch is fixed. The two runs beside each other have half of it each and nothing to tell each other: more
    than that the machine does not give.
    """
    mpiexec = str(Path(sys.executable).parent / "mpiexec")
    folder.mkdir()
    (one,) = rates(data, folder, size, [("one", 16, [])])
    (two,) = rates(data, folder, size, [("two", 16, [mpiexec, "-n", "2"])])
    apart = rates(data, folder, size, [("left", 8, []), ("right", 8, [])])
    return one, two, sum(apart)


def rates(data: Path, folder: Path, size: str, runs: list[tuple[str, int, list[str]]]) -> list[float]:
    """Return samples per second of runs that are started together: (name, global batch, launcher)."""
    more = [f"model.size={size}", "engine.threads=1", "monitor.pictures=false", "monitor.every_steps=4"]
    more += ["checkpoint.every_epochs=null", "checkpoint.keep_best=false", "monitor.validate_steps=1000"]
    started = []
    for name, batch, launcher in runs:
        config = folder / f"{name}.yaml"
        config.write_text(
            f"run: {folder / name}\ndata: {{path: {data}, cache: host}}\noptim: {{epochs: 5, batch_size: {batch}}}\n"
        )
        command = [*launcher, *FMSCI, "train", str(config), *more]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    if sum(process.wait() for process in started):
        raise RuntimeError(f"one of {[name for name, _, _ in runs]} failed")
    found = []
    for name, _, _ in runs:
        lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        found.append(
            statistics.median([line["perf/samples_per_s"] for line in lines if "perf/samples_per_s" in line][1:])
        )
    return found
