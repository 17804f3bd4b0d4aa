#!/usr/bin/env python
"""What the functions that a C compiler makes bring on a CPU: training steps with them and without, in turn.

    python tools/bench_compiled.py [--sizes 64K 1M 16M 256M] [--threads N] [--rounds N]

Time of a step (forward, backward, Adam; 128 x 128, batch 8, 256M: 4) with torch's operations, with the compiled
functions (docs/fourier_layer.md), and the first over the second; medians, in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict

import torch
from model_figures import GRID, batch_of

from fmsci.model import compiled
from fmsci.model.fno import FNO
from fmsci.model.gradient_room import leave_gradients, that_leave
from fmsci.model.sizes import SIZES, architecture
from fmsci.world import LARGE_BYTES, keep_freed_memory

LIBRARY = compiled.library


def seconds(size: str, rounds: int) -> dict[bool, float]:
    """Return the seconds of a step, with the compiled functions and without."""
    shape, batch = architecture(4, size), batch_of(size, on_gpu=False)
    keep_freed_memory(shape.largest_parameter_bytes)
    model = FNO(4, shape.width, shape.modes)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    leaving = that_leave(model.parameters(), LARGE_BYTES)
    x, u = torch.randn(batch, 4, GRID, GRID), torch.randn(batch, 1, GRID, GRID)
    times: dict[bool, list[float]] = defaultdict(list)
    for _ in range(rounds + 1):  # the first warms up
        for with_them in (True, False):
            compiled.library = LIBRARY if with_them else lambda: None
            for _ in range(2):  # the second one finds the memory of its own kind
                begin = time.perf_counter()
                (model(x) - u).square().sum().div(batch).backward()
                optimizer.step()
                leave_gradients(leaving)
                optimizer.zero_grad()
                took = time.perf_counter() - begin
            times[with_them].append(took)
    compiled.library = LIBRARY
    return {with_them: statistics.median(some[1:]) for with_them, some in times.items()}


def main() -> None:
    """Measure, and print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="64K alone: to see that it runs")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if compiled.library() is None:
        raise SystemExit(f"there are no compiled functions here: {compiled.load()[1]}")
    found = {}
    for size in ["64K"] if chosen.quick else chosen.sizes:
        times = seconds(size, chosen.rounds)
        found[size] = times[False] / times[True]
        batch = batch_of(size, on_gpu=False)
        torchs, ours = (f"{1e3 * times[one] / batch:.2f}" for one in (False, True))
        print(f"{size:>4}: torch's {torchs} ms a sample, compiled {ours}, {found[size]:.2f}x", flush=True)
    if chosen.json:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
