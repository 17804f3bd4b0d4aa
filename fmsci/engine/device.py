"""Which device this rank computes on."""

from __future__ import annotations

import platform
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from fmsci.errors import UserError
from fmsci.world import World, threads_per_process

HOST = torch.device("cpu")


def pick_device(wanted: str, world: World) -> torch.device:
    """Return this rank's device; UserError where a GPU is asked for and there is none."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("engine.device is cuda but torch sees no GPU here; use engine.device=cpu or a GPU node")
    # With one GPU visible to each task its index is 0, whatever the local rank.
    device = torch.device("cuda", world.local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def gpu_name(wanted: str) -> str | None:
    """Return what the GPU is called that :func:`pick_device` would take, None where it takes none or none answers."""
    if wanted == "cpu" or not torch.cuda.is_available():
        return None
    with suppress(RuntimeError):  # busy for another process alone, or its driver is at odds with torch
        return torch.cuda.get_device_name(0)
    return None


def device_identity(device: torch.device) -> str | None:
    """Return what no other GPU of this host is called, whichever of them this process sees; None for the CPU."""
    if device.type != "cuda":
        return None
    return f"GPU {torch.cuda.get_device_properties(device).uuid}"


def device_name(device: torch.device) -> str:
    """Return what a GPU, or this host's processor, is called by its maker."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8", errors="replace").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]


def free_memory() -> None:
    """Give back what this process holds on the GPU for its next tensors: another process may need it."""
    torch.cuda.empty_cache()  # nothing where no GPU is in use


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held: of the GPU's memory in tensors, else of the host's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def product_rate(device: torch.device, precision: str) -> float:
    """Return the operations per second of a large matrix product in ``precision``: what this device can reach.

    Measured, the best of a few: 20 ms of one core. tf32 is a switch that the engine has set.
    """
    size = 4096 if device.type == "cuda" else 512
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.linspace(-1, 1, size * size, device=device).view(size, size).to(dtype) for _ in range(2))
    took = []
    for _ in range(6):  # the first warms up
        begun = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the device
        took.append(time.perf_counter() - begun)
    if device.type == "cuda":  # as if it had not been
        del left, right
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return 2.0 * size**3 / min(took)


def set_threads(wanted: int | None, world: World) -> None:
    """Compute with ``wanted`` CPU threads, else OMP_NUM_THREADS, else this process's share of the cores."""
    flush_small_numbers()
    torch.set_num_threads(wanted or threads_per_process(world))


def flush_small_numbers() -> None:
    """Take numbers below 1.2e-38 for 0, in this thread and those that it starts from now on.

    Of a model that dies of its learning rate most are so small, and a core takes a hundred times longer for each.
    """
    torch.set_flush_denormal(True)


def num_devices() -> int:
    """Return how many GPUs torch sees on this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
