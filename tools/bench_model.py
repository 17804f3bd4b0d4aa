"""Speed and memory of the model, against a plain FNO and the `neuraloperator` package, as ratios in one run.

    python tools/bench_model.py [--sizes 64K 1M ...] [--threads 1 2] [--rounds N] [--quick] [--json]
    python tools/bench_model.py --device cuda [--precision fp32 tf32 bf16]

A training step is forward, loss, backward and Adam at 128 x 128, batch 8 (256M: 4; on a GPU always 32).
Every figure comes from a process of its own; the candidates take turns, the medians of the rounds are compared. (On a
GPU, where starting a process takes longer than to measure, each candidate has one process for all sizes.) Peers:

    plain     rfft2 + einsum over complex weights, convolutions of one point, as written in this file
    neuralop  neuralop.models.FNO of the same width and modes (pip install neuraloperator, extra [bench]), if installed

``ours`` trains as fmsci does, with the allocator told to keep freed memory; ``ours, plain allocator`` without that.
On a GPU it replays the kernels of a step, as fmsci does on one GPU; ``ours, not replayed`` starts them one by one.
Memory is the peak of a step beyond the libraries, the weights, their gradients and Adam's moments.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fmsci.engine.replay import Replayed
from fmsci.model import first_layer, layer
from fmsci.model.fno import FNO
from fmsci.model.sizes import SIZES, architecture
from fmsci.model.transform import Transform
from fmsci.terminal import WARNS
from fmsci.world import keep_freed_memory

GRID = 128
CANDIDATES = ("plain", "neuralop", "ours", "ours, plain allocator")
ON_GPU = ("plain", "neuralop", "ours", "ours, not replayed")


class PlainSpectral(nn.Module):
    """Two corners of the spectrum, a complex matrix for each wavenumber, zeros elsewhere."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        shape = (width, width, modes, modes, 2)
        self.upper, self.lower = (nn.Parameter(torch.rand(shape) / width**2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution, (B, C, H, W) -> (B, C, H, W)."""
        m = self.modes
        x_hat = torch.fft.rfft2(x.float(), norm="ortho")  # there is no FFT of bfloat16
        out = torch.zeros_like(x_hat)
        for rows, weight in ((slice(0, m), self.upper), (slice(-m, None), self.lower)):
            out[:, :, rows, :m] = torch.einsum("bixy,ioxy->boxy", x_hat[:, :, rows, :m], torch.view_as_complex(weight))
        u: Tensor = torch.fft.irfft2(out, s=x.shape[-2:], norm="ortho")
        return u


class PlainFNO(nn.Module):
    """The operator of the same sizes, written straight down, channels first."""

    def __init__(self, channels: int, width: int, modes: int, layers: int = 4) -> None:
        super().__init__()
        self.lift = nn.Linear(channels, width)
        self.spectral = nn.ModuleList(PlainSpectral(width, modes) for _ in range(layers))
        self.pointwise = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the field, (B, c, H, W) -> (B, 1, H, W)."""
        batch, _, height, width = x.shape
        x = self.lift(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        for index, (spectral, pointwise) in enumerate(zip(self.spectral, self.pointwise, strict=True)):
            x = spectral(x) + pointwise(x.reshape(batch, -1, height * width)).view(batch, -1, height, width)
            if index < len(self.spectral) - 1:
                x = functional.gelu(x)
        out: Tensor = self.outer(functional.gelu(self.inner(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return out


def build(candidate: str, size: str) -> nn.Module:
    """Return a candidate's model."""
    width, modes = SIZES[size]
    if candidate == "plain":
        return PlainFNO(4, width, modes)
    if candidate == "neuralop":
        import neuralop.models

        model: nn.Module = neuralop.models.FNO(
            n_modes=(2 * modes, 2 * modes),
            in_channels=4,
            out_channels=1,
            hidden_channels=width,
            lifting_channel_ratio=1,
            projection_channel_ratio=2,
            positional_embedding=None,
            use_channel_mlp=False,
        )
        return model
    return FNO(4, width, modes)


def resident(field: str) -> float:
    """Return VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def wake_libraries() -> None:
    """Train two tiny models once: code and buffers of the libraries are no memory of the model that comes."""
    for tiny in (PlainFNO(4, 4, 2), FNO(4, 4, 2)):
        optimizer = torch.optim.Adam(tiny.parameters(), fused=True)
        tiny(torch.randn(2, 4, 16, 16)).square().sum().backward()
        optimizer.step()


def timed(
    size: str, candidate: str, threads: int, steps: int, kind: str = "cpu", precision: str = "fp32"
) -> dict[str, float]:
    """Return seconds of a training step and of inference for one sample, and the step's memory, in this process."""
    torch.set_num_threads(threads)
    device = torch.device(kind)
    on_gpu = device.type == "cuda"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if candidate == "ours" and not on_gpu:
        keep_freed_memory()
    torch.manual_seed(0)
    wake_libraries()
    batch = batch_of(size, on_gpu)
    x, u = torch.randn(batch, 4, GRID, GRID, device=device), torch.randn(batch, 1, GRID, GRID, device=device)
    before = torch.cuda.memory_allocated() if on_gpu else resident("VmRSS")
    model = build(candidate, size).to(device)
    forward: nn.Module = (
        Replayed(WithBatch(model, precision)) if candidate == "ours" and on_gpu else WithBatch(model, precision)
    )
    count = sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())
    fused = not any(p.is_complex() for p in model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=fused)

    def step() -> None:
        ((forward(x, u) - u).square().sum() / batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    def infer() -> None:
        with torch.no_grad():
            forward(x, u)

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    result = {"parameters": float(count)}
    for name, work in (("step", step), ("inference", infer)):
        work()
        times = []
        for _ in range(steps):
            wait()
            begin = time.perf_counter()
            work()
            wait()
            times.append((time.perf_counter() - begin) / batch)
        result[name] = statistics.median(times)
        if name == "step":
            peak = torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM")
            result["memory"] = peak - before - 16 * count
    return result


class WithBatch(nn.Module):
    """A candidate in a precision, with the second argument that training's modules have."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model, self.bf16 = model, precision == "bf16"

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        """Return the field, (B, c, H, W) -> (B, 1, H, W)."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            out: Tensor = self.model(x)
        return out


def timed_on_gpu(candidate: str, steps: int, sizes: list[str], precisions: list[str]) -> dict[str, Any]:
    """Return the figures of one candidate on a GPU by SIZE/PRECISION; what it cannot do is a sentence instead."""
    found: dict[str, Any] = {}
    for size in sizes:
        for precision in precisions:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            try:
                found[f"{size}/{precision}"] = timed(size, candidate, 1, steps, "cuda", precision)
            except (RuntimeError, TypeError, ValueError) as error:  # a peer may not know this precision
                if candidate.startswith("ours"):
                    raise
                found[f"{size}/{precision}"] = str(error).splitlines()[0]
    return found


def batch_of(size: str, on_gpu: bool) -> int:
    """Return how many samples a step has."""
    if on_gpu:
        return 32
    return 4 if size == "256M" else 8


def stages(size: str) -> dict[str, float]:
    """Return milliseconds per sample that our training step spends in its stages, on one thread."""
    torch.set_num_threads(1)
    keep_freed_memory()
    spent: dict[str, float] = defaultdict(float)

    inside: list[str] = []

    def watch(owner: Any, name: str, stage: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            inside.append(stage)
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                inside.pop()
                if not inside:  # a product inside a transform is the transform's
                    spent[stage] += time.perf_counter() - begin

        setattr(owner, name, watched)

    watch(Transform, "analyse", "transform")
    watch(Transform, "analyse_few", "transform")
    watch(Transform, "synthesise", "inverse")
    watch(Transform, "collect", "sums of waves")
    watch(Transform, "spread", "sums of waves")
    for room in (layer, first_layer):
        for name in ("by_wavenumber", "mix", "gradients_of_mixing"):
            watch(room, name, "mix")
    watch(torch.nn.functional, "gelu", "gelu")
    for name in ("mm", "addmm", "bmm"):
        watch(torch, name, "pointwise and head products")
    batch = 4 if size == "256M" else 8
    model, x = build("ours", size), torch.randn(batch, 4, GRID, GRID)
    rounds = 4
    for at in range(rounds + 1):
        if at == 1:
            spent.clear()
            begin = time.perf_counter()
        model(x).square().sum().backward()
        model.zero_grad()
    whole = time.perf_counter() - begin
    shares = {stage: 1e3 * seconds / rounds / batch for stage, seconds in spent.items()}
    return shares | {"everything else": 1e3 * whole / rounds / batch - sum(shares.values())}


def roofline(kind: str = "cpu", precision: str = "fp32") -> dict[str, float]:
    """Return the rate of matrix products (operations a second) and of copying (bytes a second) of a core or a GPU."""
    torch.set_num_threads(1)
    on_gpu = kind == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    n = 8192 if on_gpu else 1024
    a = torch.randn(n, n, device=kind, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    big = torch.randn(64 << 20, device=kind)
    target = torch.empty_like(big)

    def best(work: Callable[[], Any]) -> float:
        times = []
        for _ in range(7):
            begin = time.perf_counter()
            work()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        return min(times)

    return {"products": 2 * n**3 / best(lambda: a @ a), "copy": 8 * big.numel() / best(lambda: target.copy_(big))}


def in_own_process(*words: str) -> dict[str, Any]:
    """Return what this file prints when it is asked for one figure."""
    environment = os.environ | {"OMP_NUM_THREADS": words[3] if words[0] == "timed" else "1"}
    command = [sys.executable, __file__, "--one", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {(done.stderr.strip().splitlines() or ['killed'])[-1]}")
    for line in done.stderr.splitlines():
        if line.startswith(WARNS):  # a step that could not be recorded is no replayed one
            print(f"{' '.join(words)}: {line.removeprefix(WARNS)}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def show(size: str, figures: dict[str, dict[str, float]], products: float) -> float:
    """Print the figures of one size and return the share of the product rate that ours reaches."""
    ours = figures["ours"]
    rate = 3 * architecture(4, size).flops(GRID, GRID) / ours["step"] / products
    print(f"  ours reaches {100 * rate:.0f}% of the product rate")
    for one, of_one in figures.items():
        print(
            f"  {one:22s} step {1e3 * of_one['step']:8.3f} ms/sample ({of_one['step'] / ours['step']:.2f}x)   "
            f"inference {1e3 * of_one['inference']:8.3f} ({of_one['inference'] / ours['inference']:.2f}x)   "
            f"memory {of_one['memory'] / 2**20:7.0f} MiB (ours {ours['memory'] / of_one['memory']:.2f} of it)",
            flush=True,
        )
    return rate


def compare_on_gpu(sizes: list[str], precisions: list[str], steps: int) -> dict[str, Any]:
    """Return every figure of a GPU by precision, printing them at the end."""
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
            rate = show(size, figures, roof["products"])
            result[precision]["sizes"][size] = {"candidates": figures, "of_product_rate": rate}
    return result


def compare(sizes: list[str], threads: list[int], rounds: int, steps: int) -> dict[str, Any]:
    """Return every figure of a CPU, printing them as they come."""
    found = [one for one in CANDIDATES if one != "neuralop" or importlib.util.find_spec("neuralop") is not None]
    roof = in_own_process("roofline")
    print(
        f"one core: {roof['products'] / 1e9:.0f} GFLOP/s of matrix products, {roof['copy'] / 1e9:.0f} GB/s of copying"
    )
    result: dict[str, Any] = {"roofline": roof, "sizes": {}}
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
            rate = show(size, figures, roof["products"] * count)
            result["sizes"][f"{size}/{count}"] = {"candidates": figures, "of_product_rate": rate}
        shares = in_own_process("stages", size)
        whole = sum(shares.values())
        print("  forward and backward: " + ", ".join(f"{name} {100 * ms / whole:.0f}%" for name, ms in shares.items()))
        result["sizes"][f"{size}/stages"] = shares
    return result


def main() -> None:
    """Compare, or in a process of its own measure one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "tf32", "bf16"], default=["fp32"])
    parser.add_argument("--quick", action="store_true", help="64K, one thread, one round: to see that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, *words = arguments.one
        if kind == "timed":
            print(json.dumps(timed(words[0], words[1], int(words[2]), int(words[3]))))
        elif kind == "timed_on_gpu":
            print(json.dumps(timed_on_gpu(words[0], int(words[1]), words[2].split(","), words[3].split(","))))
        else:
            print(json.dumps(stages(words[0]) if kind == "stages" else roofline(*words)))
        return
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
