"""What the ranks tell each other beside gradients: sums of a few numbers, and what rank 0 decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from fmsci.errors import SettingsError
from fmsci.world import World


def total(values: Sequence[float], device: torch.device) -> list[float]:
    """Return the sums over all ranks, in float64. Collective."""
    tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return [float(value) for value in tensor.tolist()]


def by_rank(values: Sequence[float], device: torch.device) -> Tensor:
    """Return the values of every rank as rows, in rank order, on every rank; equally many on each. Collective.

    On the host, float64: in one piece, for each number that is fetched by itself would wait for the device.
    """
    found = torch.tensor([list(values)], dtype=torch.float64, device=device)
    if dist.is_initialized():
        mine, found = found, found.new_zeros((dist.get_world_size(), len(values)))
        found[dist.get_rank()] = mine[0]
        dist.all_reduce(found)  # of one row each, the others zero
    return found.cpu()


def decided_by_main(world: World, device: torch.device, decide: Callable[[], float]) -> float:
    """Return what rank 0 finds, on every rank; its mistake ends them all. Collective.

    One rank looks for all: on a shared file system another might still see an older folder.
    """
    return told_by_main(world, device, 1, lambda: [decide()])[0]


def told_by_main(world: World, device: torch.device, count: int, tell: Callable[[], Sequence[float]]) -> list[float]:
    """Return so many numbers that rank 0 finds, on every rank; its mistake ends them all. Collective."""
    mistake: Exception | None = None
    values: Sequence[float] = [0.0] * count
    if world.is_main:
        try:
            values = tell()
        except Exception as error:  # whatever it is, the others must not wait for its sum
            mistake = error
    failed, *values = total([float(mistake is not None), *values], device)
    if mistake is not None:
        raise mistake
    if failed:
        raise SettingsError("rank 0 has said what is wrong")
    return list(values)


Tensors = Iterable[tuple[str, Tensor]]


def read_by_main(
    world: World, device: torch.device, shapes: Mapping[str, Sequence[int]], read: Callable[[], Tensors]
) -> Tensors:
    """Yield tensors of float32 that rank 0 reads, by name, on every rank; its mistake ends them all. Collective.

    Those of ``shapes``, one by one on the device, or none where there are none to read. A thousand ranks that each
    read a checkpoint ask a file system for terabytes of one file.
    """
    if world.size == 1:
        yield from read()
        return
    found: dict[str, Tensor] = {}

    def look() -> float:
        found.update(read())
        return float(bool(found))

    if not decided_by_main(world, device, look):
        return
    for name, shape in shapes.items():
        tensor = found.pop(name).to(device) if world.is_main else torch.empty(tuple(shape), device=device)
        dist.broadcast(tensor, src=0)
        yield name, tensor


class Agreement:
    """Sums of a few numbers over the ranks that no device waits for: asked in one step, answered in the next.

    They travel between the hosts, beside the device's own collectives, while the step is computed.
    """

    def __init__(self, timeout_s: float) -> None:
        several = dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s)) if several else None
        self._asked: tuple[torch.Tensor, dist.Work] | None = None

    @property
    def delayed(self) -> bool:
        """Whether an answer is to what was asked the time before."""
        return self._group is not None

    def exchange(self, values: Sequence[float]) -> list[float]:
        """Ask for the sums of ``values``; return those asked for the last time, zeros at first. Collective.

        A process alone has its own values at once.
        """
        if self._group is None:
            return list(values)
        answer = self.close() or [0.0] * len(values)
        tensor = torch.tensor(list(values), dtype=torch.float64)
        work = dist.all_reduce(tensor, group=self._group, async_op=True)
        assert work is not None
        self._asked = tensor, work
        return answer

    def close(self) -> list[float] | None:
        """Wait for the sums under way and return them, or None. Collective."""
        if self._asked is None:
            return None
        tensor, work = self._asked
        self._asked = None
        work.wait()
        return [float(value) for value in tensor.tolist()]
