"""Looking at the ranks themselves: what each found, whether their sums are right, how fast they talk."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PROBE_BYTES = 1 << 24
REPEATS = 3
WEIGHTS = 64
"""What ranks add is one of so many numbers: the sum stays exact in float32 up to 500,000 ranks."""


def host_group(timeout_s: float) -> dist.ProcessGroup:
    """Return all ranks as a group whose messages go from host to host, whatever device they compute on. Collective."""
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
    assert isinstance(group, dist.ProcessGroup)
    return group


def gather_facts(
    facts: dict[str, Any], device: torch.device, group: dist.ProcessGroup | None = None
) -> list[dict[str, Any]]:
    """Return the facts of every rank, in rank order, on every rank; they travel as JSON. Collective.

    ``device`` is where the messages of the group (all ranks, where none is given) begin and end.
    """
    if not dist.is_initialized():
        return [facts]
    text = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8).to(device)
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(text)], device=device), group=group)
    longest = max(int(length) for length in lengths)
    padded = torch.zeros(longest, dtype=torch.uint8, device=device)
    padded[: len(text)] = text
    found = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(found, padded, group=group)
    return [json.loads(bytes(one[: int(length)].cpu().tolist())) for one, length in zip(found, lengths, strict=True)]


def all_reduce_speed(device: torch.device) -> tuple[bool, float]:
    """Return whether a sum over the ranks is right, and the bytes a second that each rank moves in one. Collective.

    A rank sends and receives 2 (n - 1) / n times its buffer in a ring, which is what is counted.
    """
    size, rank = dist.get_world_size(), dist.get_rank()
    count = PROBE_BYTES // 4
    expected = float(sum(other % WEIGHTS + 1 for other in range(size)))
    right = True
    best = float("inf")
    for _ in range(REPEATS):
        values = torch.full((count,), float(rank % WEIGHTS + 1), device=device)
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(values)
        right = right and bool((values == expected).all())  # waits for the device
        best = min(best, time.perf_counter() - began)
    return right, 2 * (size - 1) / size * PROBE_BYTES / best


def clock_after_barrier() -> float:
    """Return this host's time of day, read at the same moment on every rank. Collective."""
    if dist.is_initialized():
        dist.barrier()
    return time.time()
