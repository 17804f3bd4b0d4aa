#!/usr/bin/env python
"""Which peak learning rate and which initial weights train best, by size of the model: short runs of `fmsci train`.

    python tools/tune_lr.py [--sizes 64K 1M ...] [--rates 3e-4 1e-3 ...] [--initial paper balanced] [--epochs N]

Poisson SYS-1(1,5) at 64 x 64, one process, cosine to zero. Prints the validation error of each run and the best rate
of each size; the default rates of fmsci/train/learning_rate.py come from here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fmsci.model.sizes import SIZES

FMSCI = [sys.executable, "-m", "fmsci"]


def main() -> None:
    """Sweep sizes, rates and initial weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["64K", "1M", "16M"])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3, 1e-2, 3e-2])
    parser.add_argument("--initial", nargs="+", choices=["paper", "balanced"], default=["paper", "balanced"])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--grid", type=int, default=64)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        sizes = ["--grid", str(chosen.grid), "--train", str(chosen.samples), "--valid", "64", "--test", "2"]
        system = ["--system", "poisson", "--range", "1", "5", "--output", str(data)]
        subprocess.run([*FMSCI, "generate", *system, *sizes], check=True, capture_output=True)
        for size in chosen.sizes:
            errors = {}
            for initial in chosen.initial:
                for rate in chosen.rates:
                    errors[initial, rate] = error = trained(Path(folder), data, size, rate, initial, chosen)
                    print(f"{size:5s} {initial:9s} lr {rate:g}: {error:.4f}", flush=True)
            best = min(errors, key=lambda one: errors[one])
            print(f"{size:5s} best: {best[0]} at {best[1]:g}, {errors[best]:.4f}", flush=True)


def trained(folder: Path, data: Path, size: str, rate: float, initial: str, chosen: argparse.Namespace) -> float:
    """Return the validation error of one run; infinite where it diverged."""
    run, config = folder / f"{size}-{rate:g}-{initial}", folder / "train.yaml"
    config.write_text(f"run: unset\ndata: {{path: {data}}}\noptim: {{epochs: {chosen.epochs}}}\n")
    settings = [f"run={run}", f"model.size={size}", f"model.initial={initial}", f"optim.lr={rate}"]
    settings += [f"optim.batch_size={chosen.batch}", "optim.warmup=16", "monitor.pictures=false", "checkpoint.keep=1"]
    done = subprocess.run([*FMSCI, "train", str(config), *settings], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout[-2000:] + done.stderr[-500:], file=sys.stderr)
        return float("inf")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(run)  # checkpoints of 256M are 3 GiB each
    return float(next(line["valid/poisson/rel_l2"] for line in reversed(lines) if "valid/poisson/rel_l2" in line))


if __name__ == "__main__":
    main()
