#!/usr/bin/env python
"""What the trainer costs beside the model: the loop, a second process, a checkpoint. Prints a table.

    python tools/bench_engine.py                        all but the largest checkpoint
    python tools/bench_engine.py --checkpoint 16M 256M  with it: 10 GB of memory, 4 GB of disk
    python tools/bench_engine.py --what monitor --pictures    with pictures and spectra, over ten minutes of steps
    python tools/bench_engine.py --what knobs           bucket sizes and switches of DDP and ZeRO
    python tools/bench_engine.py --quick                a look at them at the smallest size, no figures
    chrt -f 10 taskset -c 0,1 python tools/bench_engine.py --what loop second

Overhead is in processor time of one thread, so that other work on the machine counts little; the second process is
measured in wall time and needs two free cores. The last form (as root) takes them from all other work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import bench_monitor
from bench_jobs import CPU, maker, prepare, settings
from bench_loop import overhead
from bench_second import speedup

from fmsci.engine.group import process_group
from fmsci.terminal import say, table
from fmsci.train.build import build_job
from fmsci.train.saving import Saver
from fmsci.train.state import State
from fmsci.train.trouble import Trouble
from fmsci.world import World

WHAT = ("loop", "monitor", "second", "checkpoint", "knobs")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the trainer costs beside the model.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", nargs="+", default=["16M"])
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT)
    parser.add_argument("--pictures", action="store_true", help="with monitor: pictures and spectra too")
    parser.add_argument("--quick", action="store_true", help="one round of all but some engines at the smallest size")
    parser.add_argument("--json", action="store_true", help="nothing else: the last line is JSON in any case")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.checkpoint = 1, ["64K"]
    small, grid = ("64K", 32) if chosen.quick else ("1M", 128)
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, large = prepare(folder, 32 if chosen.quick else 64), prepare(folder, 128) if not chosen.quick else None
        if "loop" in chosen.what:
            epochs = 3 if chosen.quick else 16
            found = [overhead(data, folder / str(number), epochs) for number in range(chosen.rounds)]
            rows.append(
                ("loop over bare steps, 64K, processor time", f"{statistics.median(found):+.1%}", spread(found, "%"))
            )
        if "monitor" in chosen.what:
            for size in ("64K",) if chosen.quick else ("64K", "1M"):
                found = [
                    bench_monitor.monitoring(maker(data, folder / f"{size}-{number}"), size)
                    for number in range(chosen.rounds)
                ]
                rows.append((f"monitoring over a step, {size}", f"{statistics.median(found):+.2%}", spread(found, "%")))
            if chosen.pictures:
                pictured = prepare(folder, 64, 512, 32)
                for size in ("64K", "1M"):
                    found = [
                        bench_monitor.pictured(maker(pictured, folder / f"drawn-{size}-{number}"), size)
                        for number in range(chosen.rounds)
                    ]
                    rows.append(
                        (f"the same with pictures, {size}", f"{statistics.median(found):+.2%}", spread(found, "%"))
                    )
        if "second" in chosen.what:
            rows += second(large or data, folder, small, min(chosen.rounds, 3))
        for size in chosen.checkpoint if "checkpoint" in chosen.what else []:
            rows += checkpoints(data, folder, size, (2,) if chosen.quick else (1, 2, 3))
        for size in () if "knobs" not in chosen.what else ("64K",) if chosen.quick else ("1M", "16M"):
            rows += knobs(folder, size, grid, chosen.rounds, 1 if chosen.quick else 5)
    table("trainer", ("what", "median", "all"), rows)
    say(json.dumps(rows))


def second(data: Path, folder: Path, size: str, rounds: int) -> Iterator[tuple[str, ...]]:
    """Yield the rates of one process, of two, and of two that have nothing to tell each other; then the ratios."""
    found = [speedup(data, folder / f"two-{number}", size) for number in range(rounds)]
    for number, (one, two, apart) in enumerate(found):
        told = f"one {one:.1f}, two {two:.1f}, two runs apart {apart:.1f}"
        yield f"samples/s, {size}, round {number + 1}", told, ""
    for place, name in ((1, "two processes"), (2, "two runs apart")):
        ratios = [rates[place] / rates[0] for rates in found]
        yield f"{name} over one, {size}", f"{statistics.median(ratios):.2f}x", spread(ratios, "x")


def checkpoints(data: Path, folder: Path, size: str, stages: tuple[int, ...]) -> Iterator[tuple[str, ...]]:
    """Yield how long saving takes, by engine."""
    for kind, stage in (("ddp", 0), *(("zero", stage) for stage in stages)):
        # A process for each: DeepSpeed keeps hold of its memory.
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            yield apart.submit(saving, data, folder / f"{size}-{kind}{stage}", size, kind, stage).result()


def spread(values: list[float], unit: str) -> str:
    """Return the smallest and the largest of several values."""
    form = "{:+.2%}" if unit == "%" else "{:.2f}x"
    return f"{form.format(min(values))} to {form.format(max(values))}"


def saving(data: Path, run: Path, size: str, kind: str, stage: int) -> tuple[str, ...]:
    """Return how long training waits for a checkpoint, how long it takes beside training, and its size.

    All of what a run does: the copy; then the look for what is not finite, writing, checksums, sync, the name.
    """
    engine = ["engine.kind=zero", f"engine.zero_stage={stage}"] if kind == "zero" else []
    run.mkdir(parents=True)
    with process_group(World(), CPU, 60.0, always=True):
        job = build_job(settings(data, run, f"model.size={size}", "optim.batch_size=1", *engine), World(), CPU)
        batch, state = next(iter(job.loader.epoch(0))), State()
        job.engine.step(batch, 1e-3)
        state.advance(batch.global_count)
        job.loader.close()
        with Saver(job, Trouble()) as saver:
            begun = time.perf_counter()
            saver.save(state)
            taken = time.perf_counter()
            saver.close()
        written = time.perf_counter()
    files = list(run.rglob("*.safetensors"))
    weight = sum(path.stat().st_size for path in files) / 2**20
    for path in files:
        path.unlink()
    name = f"checkpoint {size}, {kind}{stage if kind == 'zero' else ''}"
    return name, f"{taken - begun:.2f} s waited, {written - taken:.2f} s beside", f"{weight:.0f} MiB"


def knobs(folder: Path, size: str, grid: int, rounds: int, steps: int) -> list[tuple[str, ...]]:
    """Return the time of a step of two processes for each variant of tools/engine_knobs.py, in rounds in turn."""
    tool, mpiexec = Path(__file__).with_name("engine_knobs.py"), str(Path(sys.executable).parent / "mpiexec")
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        output = folder / f"knobs-{size}-{number}.json"
        command = [mpiexec, "-n", "2", sys.executable, str(tool), size, str(grid), str(steps), str(output)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for name, seconds in json.loads(output.read_text()).items():
            found.setdefault(name, []).append(1000 * seconds)
    return [
        (f"a step of {size}, {name}", f"{statistics.median(one):.0f} ms", f"{min(one):.0f} to {max(one):.0f} ms")
        for name, one in found.items()
    ]


if __name__ == "__main__":
    main()
