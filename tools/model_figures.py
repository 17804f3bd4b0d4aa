#!/usr/bin/env python
"""One figure of the model or of a peer, measured in a process of its own; tools/bench_model.py asks for each.

    python tools/model_figures.py timed SIZE CANDIDATE THREADS STEPS          a training step and inference, on a CPU
    python tools/model_figures.py timed_on_gpu CANDIDATE STEPS SIZE,... PRECISION,...
    python tools/model_figures.py stages SIZE                                 where our training step spends its time
    python tools/model_figures.py roofline [cpu|cuda [PRECISION [THREADS]]]   what cores, or a GPU, can reach

The last line that it prints is the figure as JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from model_peers import PlainFNO, build
from torch import Tensor, nn

from fmsci.engine.replay import Replayed
from fmsci.model import first_layer, layer
from fmsci.model.fno import FNO
from fmsci.model.gradient_room import leave_gradients, that_leave
from fmsci.model.pointwise import HeadAtPoints
from fmsci.model.sizes import architecture
from fmsci.model.transform import Transform
from fmsci.world import LARGE_BYTES, keep_freed_memory

GRID = 128


def batch_of(size: str, on_gpu: bool) -> int:
    """Return how many samples a step has."""
    if on_gpu:
        return 32
    return 4 if size == "256M" else 8


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
        keep_freed_memory(architecture(4, size).largest_parameter_bytes)
    torch.manual_seed(0)
    wake_libraries()
    batch = batch_of(size, on_gpu)
    x, u = torch.randn(batch, 4, GRID, GRID, device=device), torch.randn(batch, 1, GRID, GRID, device=device)
    before = torch.cuda.memory_reserved() if on_gpu else resident("VmRSS")
    with device:  # 256M numbers are drawn in no time on a GPU
        model = build(candidate, size)
    module = WithPrecision(model, precision)
    replayed = Replayed(module, lambda *given: loss(*given).expand(2)) if candidate == "ours" and on_gpu else None
    count = sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())
    fused = not any(p.is_complex() for p in model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=fused)

    leaving = that_leave(model.parameters(), LARGE_BYTES) if candidate == "ours" else []

    def step() -> None:
        if replayed is None:
            loss(module, x, u).backward()  # type: ignore[no-untyped-call]
        else:
            replayed.gradient(x, u)
        optimizer.step()
        leave_gradients(leaving)
        optimizer.zero_grad()

    def infer() -> None:
        with torch.no_grad():
            module(x)

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    result = {"parameters": float(count)}
    for name, work in (("step", step), ("inference", infer)):
        for _ in range(2):  # the second one has the memory that the first one freed
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
            peak = torch.cuda.max_memory_reserved() if on_gpu else resident("VmHWM")
            result["memory"] = peak - before - 16 * count
    return result


def loss(module: Callable[[Tensor], Tensor], x: Tensor, u: Tensor) -> Tensor:
    """Return the mean over the batch of the squared errors."""
    return (module(x) - u).square().sum() / len(x)


class WithPrecision(nn.Module):
    """A candidate in a precision."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model, self.bf16 = model, precision == "bf16"

    def forward(self, x: Tensor) -> Tensor:
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


def stages(size: str) -> dict[str, float]:
    """Return milliseconds per sample that our training step spends in its stages, on one thread."""
    torch.set_num_threads(1)
    keep_freed_memory(architecture(4, size).largest_parameter_bytes)
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
    watch(Transform, "synthesise", "inverse")
    watch(Transform, "collect", "transform")
    watch(Transform, "spread", "inverse")
    for room in (layer, first_layer):
        for name in ("mix", "gradients_of_mixing"):
            watch(room, name, "mix")
    for name in ("activated_product", "layer_gradient"):
        watch(layer, name, "gelu and pointwise products")
    for name in ("values", "add_gradient"):
        watch(HeadAtPoints, name, "head")
    batch = batch_of(size, on_gpu=False)
    model, x = build("ours", size), torch.randn(batch, 4, GRID, GRID)
    leaving = that_leave(model.parameters(), LARGE_BYTES)
    rounds = 4
    for at in range(rounds + 1):
        if at == 1:
            spent.clear()
            begin = time.perf_counter()
        model(x).square().sum().backward()
        leave_gradients(leaving)
        model.zero_grad()
    whole = time.perf_counter() - begin
    shares = {stage: 1e3 * seconds / rounds / batch for stage, seconds in spent.items()}
    return shares | {"everything else": 1e3 * whole / rounds / batch - sum(shares.values())}


def roofline(kind: str = "cpu", precision: str = "fp32", threads: str = "1") -> dict[str, float]:
    """Return the rate of matrix products (operations a second) and of copying (bytes a second) of cores or a GPU.

    A copy counts what is read and what is written.
    """
    torch.set_num_threads(int(threads))
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


def main(kind: str, *words: str) -> None:
    """Measure one figure and print it."""
    if kind == "timed":
        found: dict[str, Any] = timed(words[0], words[1], int(words[2]), int(words[3]))
    elif kind == "timed_on_gpu":
        found = timed_on_gpu(words[0], int(words[1]), words[2].split(","), words[3].split(","))
    else:
        found = stages(words[0]) if kind == "stages" else roofline(*words)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
