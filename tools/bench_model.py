"""Speed and memory of the model, against a plain FNO and the `neuraloperator` package, as ratios in one run.

    python tools/bench_model.py [--sizes 64K 1M ...] [--threads 1 2] [--rounds N] [--quick] [--json]
    python tools/bench_model.py --device cuda [--precision fp32 tf32 bf16]

A training step is forward, loss, backward and Adam at 128 x 128, batch 8 (256M: 4; on a GPU always 32).
Every figure comes from a process of its own; the candidates take turns, the medians of the rounds are compared. (On a
GPU, where starting a process takes longer than to measure, each candidate has one process for all sizes.) Peers:

    plain     rfft2 + einsum over complex weights, convolutions of one point, as written in tools/model_peers.py
    neuralop  neuralop.models.FNO of the same width and modes (pip install neuraloperator, extra [bench]), if installed

``ours`` trains as fmsci does, with the allocator told to keep freed memory; ``ours, plain allocator`` without that.
On a GPU it replays the kernels of a step, as fmsci does on one GPU; ``ours, not replayed`` starts them one by one.
Memory is the peak of a step beyond the libraries, the weights, their gradients and Adam's moments; on a GPU of what
torch has reserved, as a recording holds memory in which no tensor lies.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import torch
from model_figures import GRID, batch_of
from model_floor import floor

from fmsci.model.sizes import SIZES, STEP_FLOPS, architecture
from fmsci.terminal import WARNS

CANDIDATES = ("plain", "neuralop", "ours", "ours, plain allocator")
ON_GPU = ("plain", "neuralop", "ours", "ours, not replayed")


def in_own_process(*words: str) -> dict[str, Any]:
    """Return one figure of tools/model_figures.py."""
    environment = os.environ | {"OMP_NUM_THREADS": words[3] if words[0] in {"timed", "roofline"} and words[3:] else "1"}
    command = [sys.executable, str(Path(__file__).with_name("model_figures.py")), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {(done.stderr.strip().splitlines() or ['killed'])[-1]}")
    for line in done.stderr.splitlines():
        if line.startswith(WARNS):  # a step that could not be recorded is no replayed one
            print(f"{' '.join(words)}: {line.removeprefix(WARNS)}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def show(
    size: str, figures: dict[str, dict[str, float]], roof: dict[str, float], cpu: bool, precision: str = "fp32"
) -> dict[str, float]:
    """Print the figures of one size; return the shares of the product rate and of the roofline that ours reaches."""
    ours, model = figures["ours"], architecture(4, size)
    rate = STEP_FLOPS * model.flops(GRID, GRID) / ours["step"] / roof["products"]
    least = floor(model, batch_of(size, not cpu), roof, cpu, 2 if precision == "bf16" else 4)
    share = sum(least.values()) / ours["step"]
    parts = ", ".join(f"{stage} {1e3 * seconds:.3g} ms" for stage, seconds in least.items())
    print(f"  ours reaches {100 * rate:.0f}% of the product rate, {100 * share:.0f}% of its roofline ({parts})")
    for one, of_one in figures.items():
        print(
            f"  {one:22s} step {1e3 * of_one['step']:8.3f} ms/sample ({of_one['step'] / ours['step']:.2f}x)   "
            f"inference {1e3 * of_one['inference']:8.3f} ({of_one['inference'] / ours['inference']:.2f}x)   "
            f"memory {of_one['memory'] / 2**20:7.0f} MiB (ours {ours['memory'] / of_one['memory']:.2f} of it)",
            flush=True,
        )
    return {"of_product_rate": rate, "of_roofline": share}


def compile_kernels(sizes: list[str], precisions: list[str]) -> None:
    """Leave the kernels of our model in Triton's cache, all at once: one after the other they take minutes."""

    def compiled(of: tuple[str, str]) -> None:
        with suppress(RuntimeError):  # for lack of memory beside the others: it compiles when its turn comes
            in_own_process("timed_on_gpu", "ours, not replayed", "1", *of)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compiled, product(sizes, precisions)))


def compare_on_gpu(sizes: list[str], precisions: list[str], steps: int) -> dict[str, Any]:
    """Return every figure of a GPU by precision, printing them at the end."""
    compile_kernels(sizes, precisions)
    found = [one for one in ON_GPU if one != "neuralop" or importlib.util.find_spec("neuralop") is not None]
    runs = {
        one: in_own_process("timed_on_gpu", one, str(steps), ",".join(sizes), ",".join(precisions)) for one in found
    }
    result: dict[str, Any] = {}
    for precision in precisions:
        roof = in_own_process("roofline", "cuda", precision)
        print(
            f"one GPU, {precision}: {roof['products'] / 1e12:.0f} TFLOP/s of matrix products, "
            f"{roof['copy'] / 1e9:.0f} GB/s of copying"
        )
        result[precision] = {"roofline": roof, "sizes": {}}
        for size in sizes:
            print(f"{size}, {precision}")
            of_all: dict[str, Any] = {one: runs[one][f"{size}/{precision}"] for one in found}
            figures = {one: value for one, value in of_all.items() if isinstance(value, dict)}
            for one in of_all.keys() - figures.keys():
                print(f"  {one} left out: {of_all[one]}")
            shares = show(size, figures, roof, cpu=False, precision=precision)
            result[precision]["sizes"][size] = {"candidates": figures, **shares}
    return result


def compare(sizes: list[str], threads: list[int], rounds: int, steps: int) -> dict[str, Any]:
    """Return every figure of a CPU, printing them as they come."""
    found = [one for one in CANDIDATES if one != "neuralop" or importlib.util.find_spec("neuralop") is not None]
    roofs = {count: in_own_process("roofline", "cpu", "fp32", str(count)) for count in threads}
    for count, roof in roofs.items():
        print(
            f"{count} thread(s): {roof['products'] / 1e9:.0f} GFLOP/s of matrix products, "
            f"{roof['copy'] / 1e9:.0f} GB/s of copying"
        )
    result: dict[str, Any] = {"roofline": roofs, "sizes": {}}
    for size in sizes:
        for count in threads:
            runs: dict[str, list[dict[str, float]]] = {one: [] for one in found}
            for _ in range(rounds):
                for one, of_one in runs.items():
                    of_one.append(in_own_process("timed", size, one, str(count), str(steps)))
            figures = {
                one: {name: statistics.median(run[name] for run in of_one) for name in of_one[0]}
                for one, of_one in runs.items()
            }
            print(f"{size}, {count} thread(s)")
            shares = show(size, figures, roofs[count], cpu=True)
            result["sizes"][f"{size}/{count}"] = {"candidates": figures, **shares}
        spent = in_own_process("stages", size)
        whole = sum(spent.values())
        print("  forward and backward: " + ", ".join(f"{name} {100 * ms / whole:.0f}%" for name, ms in spent.items()))
        result["sizes"][f"{size}/stages"] = spent
    return result


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "tf32", "bf16"], default=["fp32"])
    parser.add_argument("--quick", action="store_true", help="64K, one thread, one round: to see that it runs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("bench_model: there is no GPU that torch can use here")
        result = compare_on_gpu(["64K"] if arguments.quick else arguments.sizes, arguments.precision, 20)
    elif arguments.quick:
        result = {"fp32": compare(["64K"], [1], 1, 3)}
    else:
        result = {"fp32": compare(arguments.sizes, arguments.threads, arguments.rounds, 5)}
    if arguments.json:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
