#!/usr/bin/env python
"""What the trainer costs beside the model: the loop, a second process, a checkpoint. Prints a table.

    python tools/bench_engine.py                    grid 64; all but the largest checkpoint
    python tools/bench_engine.py --checkpoint 256M  with it: 10 GB of memory, 4 GB of disk

Overhead is in processor time of one thread, so that other work on the machine counts little; the second process is
measured in wall time and needs two free cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from fmsci.config import TrainSettings, load_settings
from fmsci.engine.collective import process_group
from fmsci.terminal import say, table
from fmsci.train.build import Job, build_job
from fmsci.train.run import run_training
from fmsci.world import World

CPU = torch.device("cpu")
FMSCI = [sys.executable, "-m", "fmsci"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the trainer costs beside the model.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", nargs="+", default=["16M"])
    chosen = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = prepare(folder)
        found = [overhead(data, folder / str(number)) for number in range(chosen.rounds)]
        rows.append(
            ("loop over bare steps, 64K, processor time", f"{statistics.median(found):+.1%}", spread(found, "%"))
        )
        found = [speedup(data, folder / f"two-{number}") for number in range(min(chosen.rounds, 3))]
        rows.append(("two processes over one, 1M", f"{statistics.median(found):.2f}x", spread(found, "x")))
        with process_group(World(), CPU, 60.0, always=True):  # one for all: DeepSpeed knows only its first
            for size in chosen.checkpoint:
                for kind, stage in (("ddp", 0), ("zero", 1), ("zero", 3)):
                    rows.append(saving(data, folder / f"{size}-{kind}{stage}", size, kind, stage))
    table("trainer", ("what", "median", "all"), rows)
    say(json.dumps(rows))


def spread(values: list[float], unit: str) -> str:
    """Return the smallest and the largest of several values."""
    form = "{:+.1%}" if unit == "%" else "{:.2f}x"
    return f"{form.format(min(values))} to {form.format(max(values))}"


def prepare(folder: Path) -> Path:
    """Make a small data folder at the grid of quickstart."""
    sizes = ["--grid", "64", "--train", "64", "--valid", "2", "--test", "2"]
    command = [*FMSCI, "generate", "--system", "poisson", "--range", "1", "5", *sizes, "--output", str(folder / "data")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "data"


def settings(data: Path, run: Path, *more: str) -> TrainSettings:
    """Return the settings of a short run."""
    config = data.parent / "train.yaml"
    config.write_text(f"run: {run}\ndata: {{path: {data}, cache: host}}\noptim: {{epochs: 1, batch_size: 16}}\n")
    common = [
        "engine.threads=1",
        "monitor.pictures=false",
        "checkpoint.every_epochs=null",
        "checkpoint.every_minutes=null",
    ]
    return load_settings(TrainSettings, config, [*common, *more])


def overhead(data: Path, run: Path) -> float:
    """Return processor time of a whole run over that of its bare steps (forward, backward, Adam), less 1.

    What happens once (imports, building, the two validations, the last checkpoint) is measured with a run of one epoch
    and taken off.
    """
    whole = []
    for epochs in (1, 11):
        begun = time.process_time()
        run_training(
            settings(
                data, run / str(epochs), "model.size=64K", f"optim.epochs={epochs}", "monitor.validate_steps=1000"
            ),
            World(),
            CPU,
        )
        whole.append(time.process_time() - begun)
    job = build_job(settings(data, run / "bare", "model.size=64K"), World(), CPU)
    batches = list(job.loader.epoch(0))
    bare_steps(job, batches)
    begun = time.process_time()
    for _ in range(10):
        bare_steps(job, batches)
    return (whole[1] - whole[0]) / (time.process_time() - begun) - 1


def bare_steps(job: Job, batches: list) -> None:
    """Take one epoch of steps on batches that are in memory, as plainly as torch allows."""
    operator, optimizer = job.engine.operator, job.engine.optimizer
    for batch in batches:
        samples = batch.pieces[0].samples
        u = operator(samples.source, samples.coefficients)
        loss = (u - samples.solution).square().sum() / batch.global_count
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def speedup(data: Path, folder: Path) -> float:
    """Return how much faster two processes take the steps of a fixed global batch than one, by their own record."""
    mpiexec = str(Path(sys.executable).parent / "mpiexec")
    rates = []
    for ranks in (1, 2):
        run = folder / str(ranks)
        run.parent.mkdir(parents=True, exist_ok=True)
        config = run.parent / "train.yaml"
        config.write_text(f"run: {run}\ndata: {{path: {data}, cache: host}}\noptim: {{epochs: 5, batch_size: 16}}\n")
        more = ["model.size=1M", "engine.threads=1", "monitor.pictures=false", "monitor.every_steps=4"]
        subprocess.run(
            [mpiexec, "-n", str(ranks), *FMSCI, "train", str(config), *more], check=True, capture_output=True
        )
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        rates.append(
            statistics.median([line["perf/samples_per_s"] for line in lines if "perf/samples_per_s" in line][1:])
        )
    return rates[1] / rates[0]


def saving(data: Path, run: Path, size: str, kind: str, stage: int) -> tuple[str, ...]:
    """Return how long training waits for a checkpoint, how long it is written, and its size."""
    engine = ["engine.kind=zero", f"engine.zero_stage={stage}"] if kind == "zero" else []
    run.mkdir(parents=True)
    job = build_job(settings(data, run, f"model.size={size}", "optim.batch_size=1", *engine), World(), CPU)
    job.engine.step(next(iter(job.loader.epoch(0))), 1e-3)
    begun = time.perf_counter()
    snapshot = job.engine.snapshot()
    taken = time.perf_counter()
    snapshot.write(run)
    written = time.perf_counter()
    weight = sum(path.stat().st_size for path in run.glob("*.safetensors")) / 2**20
    name = f"checkpoint {size}, {kind}{stage if kind == 'zero' else ''}"
    return name, f"{taken - begun:.2f} s waited, {written - taken:.2f} s beside", f"{weight:.0f} MiB"


if __name__ == "__main__":
    main()
