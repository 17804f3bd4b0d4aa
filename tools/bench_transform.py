#!/usr/bin/env python
"""Matrix products or fast transforms: where which form of a Fourier layer is faster on a CPU.

    python tools/bench_transform.py [--channels 8 16 ...] [--grids 128 256 ...] [--batch N] [--threads N] [--rounds N]

Time of a layer, forward and backward, as matrix products (`engine.transform=dft`) over that with fast transforms
(`fft`), in turn in one process; medians. `*` marks where the rule of `engine.transform=auto` takes the slower one by
more than a tenth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from fmsci.model.layer import FourierLayer
from fmsci.model.sizes import Architecture
from fmsci.world import keep_freed_memory


def ratio(channels: int, modes: int, grid: int, batch: int, rounds: int) -> float:
    """Return the time of dft over that of fft."""
    keep_freed_memory(Architecture(4, channels, modes).largest_parameter_bytes)
    layers = {backend: FourierLayer(channels, modes, backend, activate=True) for backend in ("dft", "fft")}
    z = {"dft": torch.randn(grid, grid, batch, channels).permute(2, 0, 1, 3)}  # each as it comes in a model
    z["fft"] = z["dft"].contiguous()
    times: dict[str, list[float]] = {backend: [] for backend in layers}
    for _ in range(rounds + 1):
        for backend, layer in layers.items():
            field = z[backend].requires_grad_()
            begin = time.perf_counter()
            layer(field).sum().backward()
            times[backend].append(time.perf_counter() - begin)
            layer.zero_grad()
            field.grad = None  # or the next one would be added to it
    dft, fft = (statistics.median(of_one[1:]) for of_one in times.values())
    return dft / fft


def main() -> None:
    """Measure, and print a row for each number of channels and grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", nargs="+", type=int, default=[8, 12, 16, 24, 32])
    parser.add_argument("--grids", nargs="+", type=int, default=[128, 256, 512, 1024])
    parser.add_argument("--modes", nargs="+", type=int, default=[16, 32, 64, 128, 192, 256])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one small shape: to see that it runs")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.quick:
        chosen.channels, chosen.grids, chosen.modes = [16], [64], [4, 16]
    found: dict[str, float] = {}
    for channels in chosen.channels:
        for grid in chosen.grids:
            row = []
            for modes in (m for m in chosen.modes if 2 * m <= grid):
                value = ratio(channels, modes, grid, chosen.batch, chosen.rounds)
                found[f"{channels}/{grid}/{modes}"] = value
                slower = value > 1.1 if Architecture(4, channels, modes).transform == "dft" else value < 1 / 1.1
                row.append(f"m {modes}: {value:.2f}{'*' if slower else ''}")
            print(f"{channels:4d} channels, {grid:4d} x {grid:4d}   {', '.join(row)}", flush=True)
    if chosen.json:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
