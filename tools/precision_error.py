#!/usr/bin/env python
"""What bfloat16 does to the error: the same training in fp32, in bf16, and with gradients that travel as bfloat16.

    python tools/precision_error.py                        64K, 3 seeds: some minutes on 2 cores
    python tools/precision_error.py --size 1M --samples 2048 --epochs 16 --grid 64    the quickstart's own, an hour

Two ranks, the settings of configs/pretrain/quickstart.yaml but for what is given. Prints the validation error at the
end of each training, and how far it lies from that of fp32 with the same seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from fmsci.terminal import Progress, say, table

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "quickstart.yaml"
FMSCI = [sys.executable, "-m", "fmsci"]
LAUNCHER = [str(Path(sys.executable).parent / "mpiexec"), "-n", "2"]
VARIANTS = {"fp32": [], "bf16": ["engine.precision=bf16"], "compress": ["engine.compress=true"]}


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description="What bfloat16 does to the error.")
    parser.add_argument("--size", default="64K")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--valid", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--grid", type=int, default=32)
    parser.add_argument("--engine", nargs="*", default=[], help="more settings, such as engine.kind=zero")
    chosen = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = ["--train", str(chosen.samples), "--valid", str(chosen.valid), "--test", "2"]
        data = ["--system", "poisson", "--range", "1", "5", "--grid", str(chosen.grid), *sizes]
        quiet([*FMSCI, "generate", *data, "--output", str(folder / "data")])
        common = [f"data.path={folder / 'data'}", f"data.valid_samples={chosen.valid}", f"model.size={chosen.size}"]
        common += [f"optim.epochs={chosen.epochs}", "monitor.pictures=false", "engine.threads=1", *chosen.engine]
        with Progress("trainings", chosen.seeds * len(VARIANTS), "runs", enabled=True) as bar:
            for seed in range(chosen.seeds):
                for variant, settings in VARIANTS.items():
                    run = folder / f"{variant}-{seed}"
                    words = [f"run={run}", f"seed={seed}", *common, *settings]
                    quiet([*LAUNCHER, *FMSCI, "train", str(CONFIG), *words])
                    last = json.loads((run / "result.json").read_text())["last"]["valid_rel_l2"]
                    found[variant].append(last)
                    bar.update(sum(map(len, found.values())), f"{variant} {last:.4f}")
    table(f"validation error at the end, {chosen.size}", ("variant", "mean", "by seed", "over fp32"), rows(found))
    say(json.dumps(found))


def quiet(command: list[str]) -> None:
    """Run a command; what it says is shown where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)


def rows(found: dict[str, list[float]]) -> list[tuple[str, ...]]:
    """Return a row for each variant."""
    described: list[tuple[str, ...]] = []
    for variant, errors in found.items():
        ratios = [error / plain - 1 for error, plain in zip(errors, found["fp32"], strict=True)]
        over = ", ".join(f"{ratio:+.2%}" for ratio in ratios) if variant != "fp32" else ""
        by_seed = ", ".join(f"{error:.4f}" for error in errors)
        described.append((variant, f"{statistics.mean(errors):.4f}", by_seed, over))
    return described


if __name__ == "__main__":
    main()
