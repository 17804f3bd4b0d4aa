"""DeepSpeed's ZeRO behind the engine interface: optimizer state (1), gradients (2) and weights (3) cut over the ranks.

Checkpoints are those of every engine, full tensors by parameter name, gathered one by one, and not DeepSpeed's own:
the model's sizes end at 256M parameters, 3.2 GB with Adam's moments, which one rank's memory and one file hold with
ease. They resume on any engine, stage and number of ranks without a conversion, to the bit where nothing changed.
DeepSpeed's own checkpoints are bound to engine, stage and world size; its converter needs a second program.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fmsci.dataset.loader import Batch, Piece
from fmsci.engine.api import (
    MOMENTS,
    Snapshot,
    blamed,
    checkpoint_state,
    checkpoint_weights,
    gradient_norm,
    host_copy,
    piece_loss,
    set_rate,
)
from fmsci.engine.collective import read_by_main
from fmsci.engine.precision import in_precision
from fmsci.engine.watch import Watch, watch_backend
from fmsci.engine.zero_import import import_deepspeed
from fmsci.metrics import Loss, squared_error
from fmsci.model.operator import SolutionOperator
from fmsci.stages import stage
from fmsci.world import World


class ZeroEngine:
    """Adam's state (stage 1), gradients too (2), weights too (3), cut over the ranks; stage 0 cuts nothing.

    The optimizer is ours, torch's Adam: DeepSpeed hands it one flat part of the parameters. The process group must be
    up, for one rank too.
    """

    def __init__(
        self,
        operator: SolutionOperator,
        optimizer: Optimizer,
        world: World,
        config: dict[str, Any],
        *,
        precision: str = "fp32",
        skip_nonfinite: bool = False,
        loss: Loss = squared_error,
    ) -> None:
        self.operator, self.optimizer, self.world = operator, optimizer, world
        self.skip_nonfinite, self.loss = skip_nonfinite, loss
        self.stage = int(config["zero_optimization"]["stage"])
        self.shapes = {name: parameter.shape for name, parameter in operator.named_parameters()}
        self.deepspeed = import_deepspeed(world, next(operator.parameters()).device)
        # DeepSpeed keeps hold of the dictionary and writes into it.
        self.engine, *_ = self.deepspeed.initialize(
            model=in_precision(operator, precision), optimizer=optimizer, config=dict(config), dist_init_required=False
        )
        self.watch = Watch(self.engine.device)
        watch_backend(self.deepspeed.comm.comm.cdb, self.watch)
        if self.stage:
            self._begin_moments()

    # ------------------------------------------------------------------ training

    def step(self, batch: Batch, lr: float) -> Tensor:
        """See :meth:`fmsci.engine.api.Engine.step`."""
        parts = []
        for index, piece in enumerate(batch.pieces):
            self.engine.set_gradient_accumulation_boundary(index == len(batch.pieces) - 1)
            parts.append(self._backward(piece, batch.global_count))
        result = torch.stack(parts).sum(0)
        set_rate(self.optimizer, lr)
        if self.stage == 0:
            return blamed(result, self._update_whole())
        with stage("optimizer"):
            self.engine.step()
        if self.watch.wanted():
            self.watch.grad_norm = torch.as_tensor(self.engine.get_global_grad_norm())
        # Stages 1 to 3 make no update of a gradient that is not finite, and never say so.
        return blamed(result, self.engine.was_step_applied())

    def _update_whole(self) -> Tensor:
        """Update in stage 0; return whether the gradient is finite, on the device, as the DDP engine does."""
        norm = gradient_norm(one.grad for one in self.operator.parameters())
        finite = torch.isfinite(norm)
        if self.watch.wanted():
            self.watch.grad_norm = norm
        if self.skip_nonfinite and not bool(finite):
            self.engine.zero_grad()
            return finite
        with stage("optimizer"):
            self.engine.step()
        return finite

    def _backward(self, piece: Piece, global_count: int) -> Tensor:
        u = self.engine(piece.samples.source, piece.samples.coefficients)
        loss, error = piece_loss(u, piece, global_count, self.loss)
        # As DDP, DeepSpeed divides the summed gradient by the world size.
        with stage("backward"):
            self.engine.backward(loss * self.world.size, scale_wrt_gas=False)
        return torch.stack((loss.detach(), error))

    @torch.no_grad()
    def predict(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """See :meth:`fmsci.engine.api.Engine.predict`. In stage 3 every call gathers weights: equally many on all."""
        u: Tensor = self.engine.module(source, coefficients)
        return u

    # ------------------------------------------------------------------ checkpoints

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`fmsci.engine.api.Engine.weights`."""
        found = {}
        for name, parameter in self.operator.named_parameters():
            with self._whole(parameter):
                if self.world.is_main:
                    found[name] = host_copy(parameter)
        return found

    def snapshot(self) -> Snapshot:
        """See :meth:`fmsci.engine.api.Engine.snapshot`."""
        state: dict[str, Tensor] = {}
        for name, parameter in self.operator.named_parameters():
            if not parameter.requires_grad:
                continue
            for field in MOMENTS:
                moment = self._moment(parameter, field)
                if self.world.is_main and moment is not None:
                    state[f"{field}.{name}"] = host_copy(moment)
            if self.world.is_main and f"exp_avg.{name}" in state:
                state[f"step.{name}"] = host_copy(self._counter(parameter))
        return Snapshot(self.weights(), state)

    def load(self, folder: Path) -> None:
        """See :meth:`fmsci.engine.api.Engine.load`."""
        parameters = dict(self.operator.named_parameters())
        device, names = self.engine.device, [name for name, one in parameters.items() if one.requires_grad]
        for name, value in read_by_main(self.world, device, *checkpoint_weights(folder, self.shapes)):
            parameter, value = parameters[name], value.to(device)
            with torch.no_grad(), self._whole(parameter, change=True):
                parameter.copy_(value)
            if self.stage and parameter.requires_grad:  # the optimizer's own copy, of which the parameter is a copy
                self._set(parameter, value, None)
        for key, value in read_by_main(self.world, device, *checkpoint_state(folder, self.shapes, names)):
            field, _, name = key.partition(".")
            if parameters[name].requires_grad:
                self._set_state(parameters[name], field, value)

    def _whole(self, parameter: Tensor, change: bool = False) -> AbstractContextManager[Any]:
        """Return a context in which a parameter holds all its numbers, on rank 0 at least."""
        if self.stage < 3:
            return nullcontext()
        gathered: AbstractContextManager[Any] = self.deepspeed.zero.GatheredParameters(
            [parameter], modifier_rank=0 if change else None
        )
        return gathered

    def _flat_parts(self) -> list[Tensor]:
        """Return this rank's flat parts of the parameters, which the optimizer updates (stages 1 to 3)."""
        inner = self.engine.optimizer
        parts = inner.fp32_partitioned_groups_flat if self.stage == 3 else inner.single_partition_of_fp32_groups
        return list(parts)

    def _begin_moments(self) -> None:
        """Make Adam's state now, as it would be made in the first step, so that it can be set before that."""
        for flat in self._flat_parts():
            fresh = {field: torch.zeros_like(flat.detach()) for field in MOMENTS}
            self.optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **fresh}
        if self.stage < 3:
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _moment(self, parameter: Tensor, field: str) -> Tensor | None:
        if self.stage:
            moment: Tensor = self.deepspeed.utils.safe_get_full_optimizer_state(parameter, field)
            return moment
        found: Tensor | None = self.optimizer.state.get(parameter, {}).get(field)
        return found

    def _counter(self, parameter: Tensor) -> Tensor:
        """Return Adam's step counter of a parameter; all parts step together."""
        owner = self._flat_parts()[0] if self.stage else parameter
        counter: Tensor = self.optimizer.state[owner]["step"]
        return counter

    def _set_state(self, parameter: Tensor, field: str, value: Tensor) -> None:
        if field == "step":
            for owner in self._flat_parts() if self.stage else [parameter]:
                # a counter of its own: each part is stepped for itself
                self.optimizer.state[owner]["step"] = value.to(owner.device, copy=True)
        elif self.stage:
            self._set(parameter, value.to(self.engine.device), field)
        else:
            self.optimizer.state[parameter][field] = value.to(parameter.device)

    def _set(self, parameter: Tensor, value: Tensor, field: str | None) -> None:
        """Put a full tensor into the parts that the optimizer holds: a moment, or (None) its copy of the weights."""
        utils = self.deepspeed.utils
        if self.stage == 3:  # the same for all of DeepSpeed fails where the ranks do not divide the numbers evenly
            size = -(-value.numel() // self.world.size)
            padded = torch.nn.functional.pad(value.flatten(), (0, size * self.world.size - value.numel()))
            value = padded[self.world.rank * size :][:size]
            if field is None:
                utils.safe_set_local_fp32_param(parameter, value)
            else:
                utils.safe_set_local_optimizer_state(parameter, value, field)
        elif field is None:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, field)
