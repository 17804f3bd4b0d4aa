"""What is whole, and which target spoils it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import data_folders
import measured_points
import model_folders
import run_folders
import sample_files
from settings_files import SETTINGS, check_settings, make_settings, use_settings
from spoiling import Target


def prepare(place: Path, names: list[str]) -> list[Target]:
    """Make what the cases spoil: a data folder, a run that was stopped and one that was not, its model."""
    place.mkdir(parents=True)
    targets = []
    if "settings" in names:
        targets.append(Target("settings", SETTINGS, make_settings, use_settings, check_settings))
    if "scaling" in names:
        points = measured_points.MeasuredPoints(place)
        targets.append(Target("scaling", measured_points.POINTS, points.make, points.use, points.check))
    if set(names) <= {"settings", "scaling"}:
        return targets
    sizes = ["--grid", "8", "--train", "5", "--valid", "3", "--test", "2"]
    fmsci("generate", "--system", "poisson", "--range", "1", "5", "--output", place / "data", *sizes)
    if {"data", "import"} & set(names):
        folder = data_folders.DataFolder(place / "data", place / "outside.h5")
        if "data" in names:
            targets.append(Target("data", data_folders.DATA, folder.make, folder.use, folder.check))
    if "import" in names:
        files = sample_files.SampleFiles(place / "samples.h5", place / "outside.h5")
        targets.append(Target("import", sample_files.SAMPLES, files.make, files.use, files.check))
    config = place / "train.yaml"
    config.write_text(f"run: r\ndata: {{path: {place / 'data'}}}\noptim: {{epochs: 2, batch_size: 3}}\n")
    tiny = ["model.width=2", "model.modes=2", "model.layers=1", "monitor.pictures=false", "engine.threads=1"]
    tiny += ["checkpoint.every_steps=1", "checkpoint.keep=9"]
    if {"checkpoint", "model", "status"} & set(names):
        fmsci("train", config, f"run={place / 'final'}", *tiny)
    if "checkpoint" in names:
        shutil.copytree(place / "final", place / "stopped")
        for path in (place / "stopped" / "result.json", place / "stopped" / "outcome.json"):
            path.unlink()
        for step in (3, 4):
            shutil.rmtree(place / "stopped" / "checkpoints" / f"step-{step:08d}")
        runs = run_folders.Checkpoints(place / "stopped", place / "final")
        targets.append(Target("checkpoint", run_folders.CHECKPOINT, runs.make, runs.use, runs.check))
    if "status" in names:
        told = run_folders.Told(place / "final")
        targets.append(Target("status", run_folders.STATUS, told.make, told.use, told.check))
    if "model" in names:
        models = model_folders.Models(place / "final" / "model")
        targets.append(Target("model", model_folders.MODEL, models.make, models.use, models.check))
    return targets


def fmsci(*arguments: object) -> None:
    """Run a command."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "fmsci", *map(str, arguments)], check=True, env=environment, capture_output=True
    )
