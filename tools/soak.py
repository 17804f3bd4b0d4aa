#!/usr/bin/env python
"""Train for thousands of steps while being killed again and again; see that nothing is lost and nothing grows.

    python tools/soak.py                             2,000 steps, a checkpoint every 20, killed 50 times: ten minutes
    python tools/soak.py --steps 200 --kills 3       a part of it, as the test suite does

An undisturbed run is watched while it trains: its resident memory and open file handles. The same command is then
killed (SIGKILL) at moments drawn at random, most at a random step, some at a random time after the start, in the
imports, while it continues or while it saves, and started again each time. In the end the last checkpoint, the
optimizer state, the best model and the loss of every step must be the same to the bit. Prints a line for
docs/reliability.md, and fails where they are not, or where memory or handles grew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from fault_cell import FMSCI, finish
from fault_subjects import trained

GRACE_BYTES = 16 << 20
"""How much more memory than in its first half a run may hold in its second: the allocator's own habits."""
WARM = 0.1
"""The part of the steps after which a run has all that it needs: threads, buffers, files."""
SOMETIMES = 5
"""Every so many kills one comes at a random time after the start, whatever the run is doing then."""
LONGEST_START_S = 6.0


@dataclass
class Watched:
    """What a process held, by the step that it was at."""

    steps: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)

    def look(self, pid: int, step: int) -> None:
        """Note what the process holds now, unless it has ended."""
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            handles = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except (OSError, IndexError):
            return
        self.steps.append(step)
        self.memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
        self.handles.append(handles)

    def halves(self, values: list[int], last: int) -> tuple[list[int], list[int]]:
        """Return what was held in the first and in the second half of a run, after its warm-up."""
        pairs = [(step, value) for step, value in zip(self.steps, values, strict=True) if step >= WARM * last]
        return [value for step, value in pairs if 2 * step < last], [value for step, value in pairs if 2 * step >= last]


def main() -> int:
    """Run the soak; return the exit code."""
    parser = argparse.ArgumentParser(description="Kill a training run again and again; see that nothing is lost.")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--every", type=int, default=20, help="optimizer steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        command = prepare(Path(name), chosen.steps, chosen.every)
        return soak(command, Path(name), chosen.steps, chosen.kills, random.Random(chosen.seed))


def prepare(folder: Path, steps: int, every: int) -> list[str]:
    """Make the data; return the training command, of ten steps an epoch."""
    sizes = ["--grid", "16", "--train", "38", "--valid", "8", "--test", "2"]
    finish([*FMSCI, "generate", "--system", "poisson", "--range", "1", "5", "--output", str(folder / "data"), *sizes])
    config = folder / "train.yaml"
    config.write_text(f"run: unset\ndata: {{path: {folder / 'data'}}}\noptim: {{epochs: {-(-steps // 10)}}}\n")
    settings = ["model.width=4", "model.modes=4", "model.layers=2", "optim.batch_size=4", "optim.lr=1e-3"]
    settings += [f"checkpoint.every_steps={every}", "checkpoint.every_epochs=null", "monitor.every_steps=1"]
    settings += [f"monitor.validate_steps={5 * every}", "monitor.pictures=false", "engine.threads=1"]
    return [*FMSCI, "train", str(config), *settings]


def soak(command: list[str], place: Path, steps: int, kills: int, numbers: random.Random) -> int:
    """Compare a disturbed run with an undisturbed one; say what came out; return the exit code."""
    whole, broken = place / "whole", place / "broken"
    begun = time.monotonic()
    watched = undisturbed([*command, f"run={whole}"], whole, steps)
    say(f"undisturbed: {time.monotonic() - begun:.0f} s")
    begun = time.monotonic()
    landed = killed([*command, f"run={broken}"], broken, steps, kills, numbers)
    finish([*command, f"run={broken}"])
    took = time.monotonic() - begun
    same = trained(whole) == trained(broken) and losses(whole) == losses(broken)
    memory = [max(half) for half in watched.halves(watched.memory, steps)]
    # The fewest: a file that is being written is held for a moment, one that was forgotten is held from then on.
    handles = [min(half) for half in watched.halves(watched.handles, steps)]
    bounded = memory[1] <= memory[0] + GRACE_BYTES and handles[1] <= handles[0]
    left = [path.name for path in (broken / "checkpoints").glob(".*")]
    print(
        f"{steps} steps, killed {landed} times in {took:.0f} s: {'same bits' if same else 'OTHER BITS'}; "
        f"memory {memory[0] >> 20} MiB in the first half, {memory[1] >> 20} in the second; "
        f"file handles {handles[0]}, {handles[1]}; unfinished checkpoints left: {len(left)}"
    )
    return int(not (same and bounded and landed == kills and not left))


def undisturbed(command: list[str], run: Path, last: int) -> Watched:
    """Run to the end; return what the process held meanwhile.

    It is looked at often, as a file that it writes is soon closed, and once at the ``last`` step: then it closes all.
    """
    watched, seen = Watched(), -1
    with (run.parent / "whole.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        while process.poll() is None:
            step = last_step(run)
            if step < last or step > seen:
                watched.look(process.pid, step)
                seen = step
            time.sleep(0.005)
    if process.returncode != 0:
        raise SystemExit(f"the undisturbed run failed:\n{(run.parent / 'whole.log').read_text()}")
    return watched


def killed(command: list[str], run: Path, steps: int, kills: int, numbers: random.Random) -> int:
    """Start and kill the run ``kills`` times; return how often it was killed while it lived."""
    targets = sorted(numbers.randrange(1, max(2, steps - steps // 20)) for _ in range(kills))
    landed = 0
    for index, target in enumerate(targets):
        early = index % SOMETIMES == SOMETIMES - 1
        delay = numbers.uniform(0, LONGEST_START_S if early else 0.05)
        with (run.parent / "broken.log").open("a") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            end = time.monotonic() + 300
            while not early and process.poll() is None and last_step(run) < target and time.monotonic() < end:
                time.sleep(0.001)
            time.sleep(delay)
            landed += process.poll() is None
            process.kill()
        if process.returncode not in (0, -9):
            raise SystemExit(f"start {index + 1} ended by itself:\n{(run.parent / 'broken.log').read_text()[-2000:]}")
        say(f"kill {index + 1} of {kills}: after step {last_step(run)}")
    return landed


def last_step(run: Path) -> int:
    """Return the step of the newest whole entry of metrics.jsonl, -1 where there is none."""
    try:
        with (run / "metrics.jsonl").open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 2048))
            lines = stream.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"]) if len(lines) > 1 else -1
    except (OSError, ValueError):
        return -1


def losses(run: Path) -> list[tuple[int, float, float]]:
    """Return step, loss and validation error of every entry; no step may be there twice."""
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(one["step"], one.get("train/loss", -1.0), one.get("valid/rel_l2", -1.0)) for one in entries]


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
