"""What every engine does: five methods. The model is single-device code; parallelism is applied here, from outside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from fmsci.dataset.loader import Batch, Piece
from fmsci.engine.watch import Watch
from fmsci.errors import UserError
from fmsci.metrics import Loss, relative_l2
from fmsci.tensors import checked_tensors, each_tensor, write_tensors


@dataclass(frozen=True)
class Snapshot:
    """Full weights and optimizer state by parameter name, copied to the host: what a checkpoint is written from.

    It names no engine and no rank, so any engine on any number of ranks continues from it. It takes 12 bytes for every
    parameter (3.2 GB at 256M) of rank 0's memory while it is written; devices never hold more than one full tensor.
    ``optimizer`` has the keys ``FIELD.PARAMETER``: step, exp_avg, exp_avg_sq of Adam.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    def write(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``optimizer.safetensors``. Raises OSError where the place is full."""
        write_tensors(folder / "model.safetensors", self.weights)
        write_tensors(folder / "optimizer.safetensors", self.optimizer)

    def not_finite(self) -> str | None:
        """Return the name of a tensor that holds infinity or NaN, or None."""
        for tensors in (self.weights, self.optimizer):
            for name, tensor in tensors.items():
                if not bool(torch.isfinite(tensor).all()):
                    return name
        return None


class Engine(Protocol):
    """Runs optimizer steps on all ranks. Every method is collective: all ranks call it together."""

    watch: Watch
    """What a step tells beside its result."""

    def step(self, batch: Batch, lr: float) -> Tensor:
        """Forward, backward, reduce, clip, update; return this rank's part of the batch's (loss, rel_l2), shape (2,).

        The loss is the mean over the GLOBAL batch, and so is its gradient, however the batch is cut. The parts of all
        ranks add up to the batch's values; the loss is NaN where the gradient is not finite.
        Nothing here waits for the device, unless updates of such gradients are to be left out.
        """
        ...

    def predict(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """Return the solution without gradients, (B, H, W) and (B, K) -> (B, H, W)."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Return the full weights by parameter name, on the CPU of rank 0; elsewhere none."""
        ...

    def snapshot(self) -> Snapshot:
        """Return a copy of all that a checkpoint holds, on rank 0; elsewhere an empty one."""
        ...

    def load(self, folder: Path) -> None:
        """Take weights and optimizer state from a checkpoint's folder, whichever engine wrote it.

        Raises UserError where they are not this model's.
        """
        ...


def host_copy(tensor: Tensor) -> Tensor:
    """Return a copy on the host that training does not change."""
    return tensor.detach().to("cpu", copy=True)


MOMENTS = ("exp_avg", "exp_avg_sq")
ADAM_STATE = ("step", *MOMENTS)
"""What Adam keeps of every parameter: how often it was updated, and the moments of its gradient."""


def each_state(
    folder: Path, shapes: Mapping[str, torch.Size], trained: Collection[str]
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield (field, parameter, value) of the optimizer state in a checkpoint's folder, one tensor at a time.

    ``shapes`` are those of all parameters. Raises UserError where the state is not theirs, or where one that is
    ``trained`` lacks a part of it; a run that made no update yet has none at all.
    """
    path, parts = folder / "optimizer.safetensors", Counter[str]()
    for key, value in each_tensor(path):
        field, _, name = key.partition(".")
        if field == "step":
            fits = value.shape == () and bool(torch.isfinite(value)) and float(value) >= 0
        else:
            fits = value.shape == shapes.get(name)
        if not fits or field not in ADAM_STATE or name not in shapes or value.dtype != torch.float32:
            raise UserError(f"{path} does not fit the model: {key}; remove the checkpoint")
        parts[name] += 1
        yield field, name, value
    lacking = [name for name in trained if parts[name] != len(ADAM_STATE)]
    if parts and lacking:
        raise UserError(f"{path} lacks the state of {lacking[0]}; remove the checkpoint")


Shapes = Mapping[str, Sequence[int]]
Read = Callable[[], Iterator[tuple[str, Tensor]]]


def checkpoint_weights(folder: Path, shapes: Mapping[str, torch.Size]) -> tuple[Shapes, Read]:
    """Return the shapes of a model's weights, and what reads those in a checkpoint's folder."""
    return shapes, lambda: checked_tensors(folder / "model.safetensors", shapes, "remove the checkpoint")


def checkpoint_state(folder: Path, shapes: Mapping[str, torch.Size], trained: Collection[str]) -> tuple[Shapes, Read]:
    """Return the same of the optimizer state of what is trained, under the names ``FIELD.PARAMETER``."""
    wanted: Shapes = {
        f"{field}.{name}": () if field == "step" else shapes[name] for name in trained for field in ADAM_STATE
    }

    def read() -> Iterator[tuple[str, Tensor]]:
        for field, name, value in each_state(folder, shapes, trained):
            yield f"{field}.{name}", value

    return wanted, read


def piece_loss(u: Tensor, piece: Piece, global_count: int, loss: Loss) -> tuple[Tensor, Tensor]:
    """Return this piece's part of the global batch's mean loss, with its graph, and of its mean relative L2 error."""
    # A stand-in sample has weight 0: its rank takes part in the reduction and adds nothing.
    weight = min(piece.count, 1) / global_count
    mean = loss(u, piece.samples.solution).sum() * weight
    return mean, relative_l2(u.detach(), piece.samples.solution).sum() * weight


def blamed(result: Tensor, finite: Tensor | bool) -> Tensor:
    """Return a step's (loss, rel_l2) with a loss of NaN where its gradient is not ``finite``; the device decides."""
    named = torch.stack((torch.full_like(result[0], math.nan), result[1]))
    return torch.where(torch.as_tensor(finite, device=result.device), result, named)


def gradient_norm(gradients: Iterable[Tensor | None]) -> Tensor:
    """Return the L2 norm of a gradient over all parameters that have one."""
    return nn.utils.get_total_norm([one for one in gradients if one is not None])


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group: ``lr`` times the group's own ``lr_factor``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
