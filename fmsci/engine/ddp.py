"""PyTorch DistributedDataParallel behind the engine interface; one process needs no wrapper and gets none."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from fmsci.checkpoint import read_tensors, write_tensors
from fmsci.dataset.loader import Batch, Piece
from fmsci.metrics import relative_l2, squared_error
from fmsci.model.operator import SolutionOperator
from fmsci.model_folder import load_weights
from fmsci.world import World


class DDPEngine:
    """Every rank holds the whole model; gradients are averaged while the backward pass still runs."""

    def __init__(self, operator: SolutionOperator, optimizer: Optimizer, world: World, grad_clip: float | None) -> None:
        self.operator, self.optimizer, self.grad_clip = operator, optimizer, grad_clip
        self.world = world
        self.parallel: DistributedDataParallel | None = None
        if world.size > 1:
            # The scales never change, so nothing is broadcast in a forward pass. torch 2.13 renamed the switch.
            known = inspect.signature(DistributedDataParallel).parameters
            switch = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            switches: dict[str, Any] = {switch: False, "gradient_as_bucket_view": True}
            self.parallel = DistributedDataParallel(operator, **switches)

    def step(self, batch: Batch, lr: float) -> Tensor:
        """See :meth:`fmsci.engine.api.Engine.step`."""
        parts = []
        for index, piece in enumerate(batch.pieces):
            with self._reduce_only(index == len(batch.pieces) - 1):
                parts.append(self._backward(piece, batch.global_count))
        if self.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.operator.parameters(), self.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return torch.stack(parts).sum(0)

    def _reduce_only(self, now: bool) -> AbstractContextManager[None]:
        """Return the context in which gradients are only accumulated, unless ``now`` is the time to reduce them."""
        if self.parallel is None or now:
            return nullcontext()
        return self.parallel.no_sync()

    def _backward(self, piece: Piece, global_count: int) -> Tensor:
        samples = piece.samples
        u = (self.parallel or self.operator)(samples.source, samples.coefficients)
        # A stand-in sample has weight 0: its rank takes part in the reduction and adds nothing.
        weight = min(piece.count, 1) / global_count
        loss = squared_error(u, samples.solution).sum() * weight
        # DDP divides the summed gradient by the world size; the loss is already a mean over the global batch.
        (loss * self.world.size).backward()  # type: ignore[no-untyped-call]
        error = relative_l2(u.detach(), samples.solution).sum() * weight
        return torch.stack((loss.detach(), error))

    @torch.no_grad()
    def predict(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """See :meth:`fmsci.engine.api.Engine.predict`."""
        u: Tensor = self.operator(source, coefficients)
        return u

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`fmsci.engine.api.Engine.weights`."""
        return {name: tensor.detach().cpu() for name, tensor in self.operator.state_dict().items()}

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``optimizer.safetensors`` (``FIELD.PARAMETER`` -> tensor)."""
        write_tensors(folder / "model.safetensors", self.weights())
        state = {
            f"{field}.{name}": value
            for name, parameter in self.operator.named_parameters()
            for field, value in self.optimizer.state[parameter].items()
        }
        write_tensors(folder / "optimizer.safetensors", state)

    def load(self, folder: Path) -> None:
        """See :meth:`fmsci.engine.api.Engine.load`."""
        load_weights(self.operator, folder)
        parameters = dict(self.operator.named_parameters())
        for key, value in read_tensors(folder / "optimizer.safetensors").items():
            field, _, name = key.partition(".")
            # Adam's step counter stays where torch made it (the CPU, unless fused on a GPU); moments follow the weight.
            target = parameters[name]
            self.optimizer.state[target][field] = (
                value if field == "step" and target.device.type == "cpu" else value.to(target.device)
            )
