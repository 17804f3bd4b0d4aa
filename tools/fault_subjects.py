"""What tools/fault_matrix.py breaks: a training between steps, in a validation or while it saves, and a generation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fault_cell import FMSCI, LAUNCHER, Subject, finish

SETTINGS = ["model.width=8", "model.modes=4", "optim.batch_size=5", "optim.epochs=40", "checkpoint.every_steps=7"]
SETTINGS += ["checkpoint.keep=3", "monitor.every_steps=1", "monitor.validate_steps=10", "monitor.pictures=false"]

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
