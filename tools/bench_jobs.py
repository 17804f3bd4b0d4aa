"""Data and jobs for the benchmarks of the trainer, tools/bench_engine.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bench_monitor
import torch

from fmsci.config import TrainSettings, load_settings
from fmsci.train.build import build_job
from fmsci.world import World

CPU = torch.device("cpu")
FMSCI = [sys.executable, "-m", "fmsci"]


def prepare(folder: Path, grid: int, train_samples: int = 64, valid_samples: int = 2) -> Path:
    """Make a small data folder: the grid of quickstart, or that of the paper."""
    output = folder / f"data-{grid}-{train_samples}"
    sizes = ["--grid", str(grid), "--train", str(train_samples), "--valid", str(valid_samples), "--test", "2"]
    command = [*FMSCI, "generate", "--system", "poisson", "--range", "1", "5", *sizes, "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    return output


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


def maker(data: Path, run: Path) -> bench_monitor.Make:
    """Return what makes the job of a run."""
    run.mkdir(parents=True)
    return lambda *more: build_job(settings(data, run, *more), World(), CPU)
