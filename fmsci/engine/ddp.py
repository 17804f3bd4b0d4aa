"""PyTorch DistributedDataParallel behind the engine interface; one process needs no wrapper and gets none.

Nor do several that replay their steps: a recording holds no exchange, so all gradients are added up after it at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from fmsci.dataset.loader import Batch, Piece
from fmsci.dataset.samples import Samples
from fmsci.engine.api import (
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
from fmsci.engine.replay import Replayed
from fmsci.engine.watch import Watch
from fmsci.metrics import Loss, squared_error
from fmsci.model.gradient_room import leave_gradients, that_leave
from fmsci.model.operator import SolutionOperator
from fmsci.stages import stage
from fmsci.world import LARGE_BYTES, World


class DDPEngine:
    """Every rank holds the whole model; gradients are averaged in buckets while the backward pass still runs.

    With ``replay``, after it, in one piece.
    """

    def __init__(
        self,
        operator: SolutionOperator,
        optimizer: Optimizer,
        world: World,
        grad_clip: float | None,
        *,
        precision: str = "fp32",
        compress: bool = False,
        skip_nonfinite: bool = False,
        replay: bool = False,
        loss: Loss = squared_error,
        switches: Mapping[str, Any] | None = None,
    ) -> None:
        """``switches``: more of DistributedDataParallel's; given, one rank is wrapped too (to measure and to test)."""
        self.operator, self.optimizer, self.grad_clip = operator, optimizer, grad_clip
        self.world = world
        self.skip_nonfinite, self.loss, self.compress = skip_nonfinite, loss, compress
        self.module: nn.Module = in_precision(operator, precision)
        own_loss = partial(whole_loss if world.size == 1 else weighted_loss, loss)
        self.replayed = Replayed(self.module, own_loss) if replay else None
        self.trained = [parameter for parameter in operator.parameters() if parameter.requires_grad]
        self.watch = Watch(self.trained[0].device)
        self.parallel: DistributedDataParallel | None = None
        if replay and world.size > 1:
            for parameter in operator.parameters():
                dist.broadcast(parameter.detach(), 0)  # as DDP does: all start alike
        elif world.size > 1 or switches is not None:
            # The scales never change, so nothing is broadcast in a forward pass. torch 2.13 renamed the switch.
            known = inspect.signature(DistributedDataParallel).parameters
            switch = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            how: dict[str, Any] = {switch: False, "gradient_as_bucket_view": True, **(switches or {})}
            self.parallel = DistributedDataParallel(self.module, **how)
            self.parallel.register_comm_hook(self.watch, reduce_in_bfloat16 if compress else reduce_in_float32)
        # Where there are buckets, gradients lie in them.
        self.leaving = that_leave(self.trained, LARGE_BYTES) if self.parallel is None else []

    def step(self, batch: Batch, lr: float) -> Tensor:
        """See :meth:`fmsci.engine.api.Engine.step`."""
        result, norm = self._gradient(batch)
        with stage("optimizer"):
            self._update(lr, norm)
        return result

    def _gradient(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Leave the gradient in the parameters; return the step's (loss, rel_l2) and the gradient's norm."""
        first = batch.pieces[0]
        if self.replayed is not None and self.world.size > 1:
            return self._replayed_on_all(self.replayed, first, batch.global_count)
        if self.replayed is not None and first.count == len(first.samples) == batch.global_count:
            return self.replayed.gradient(first.samples.fields, first.samples.coefficients)
        parts = []
        for index, piece in enumerate(batch.pieces):
            with self._reduce_only(index == len(batch.pieces) - 1):
                parts.append(self._backward(piece, batch.global_count))
        with stage("optimizer"):
            norm = gradient_norm(one.grad for one in self.trained)
        return blamed(torch.stack(parts).sum(0), torch.isfinite(norm)), norm

    def _replayed_on_all(self, replayed: Replayed, piece: Piece, global_count: int) -> tuple[Tensor, Tensor]:
        """Return what ``_gradient`` does, of a piece on each of several ranks."""
        samples = piece.samples
        weight = torch.full((), min(piece.count, 1) / global_count, device=samples.fields.device)
        numbers, _ = replayed.gradient(samples.fields, samples.coefficients, weight)
        self.watch.ready()
        with stage("reduce"):
            sum_over_ranks(self.trained, self.compress)
        self.watch.reduced()
        with stage("optimizer"):
            norm = gradient_norm(one.grad for one in self.trained)
        return blamed(numbers, torch.isfinite(norm)), norm

    def _update(self, lr: float, norm: Tensor) -> None:
        """Clip and update.

        A gradient that is not finite makes no update where such are left out. Else it spoils the weights, and nothing
        waits to see.
        """
        if self.watch.wanted():
            self.watch.grad_norm = norm
        if not self.skip_nonfinite or bool(torch.isfinite(norm)):  # the same on every rank: gradients are reduced
            if self.grad_clip is not None:
                nn.utils.clip_grads_with_norm_(self.trained, self.grad_clip, norm)
            set_rate(self.optimizer, lr)
            self.optimizer.step()
        leave_gradients(self.leaving)
        self.optimizer.zero_grad()

    def _reduce_only(self, now: bool) -> AbstractContextManager[None]:
        """Return the context in which gradients are only accumulated, unless ``now`` is the time to reduce them."""
        if self.parallel is None or now:
            return nullcontext()
        return self.parallel.no_sync()

    def _backward(self, piece: Piece, global_count: int) -> Tensor:
        numbers = losses(self.loss, self.parallel or self.module, piece, global_count)
        # DDP divides the summed gradient by the world size; the loss is already a mean over the global batch.
        with stage("backward"):
            (numbers[0] * self.world.size).backward()  # type: ignore[no-untyped-call]
        self.watch.reduced()
        return numbers.detach()

    @torch.no_grad()
    def predict(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """See :meth:`fmsci.engine.api.Engine.predict`."""
        u: Tensor = self.module(source, coefficients)
        return u

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`fmsci.engine.api.Engine.weights`."""
        if not self.world.is_main:  # each rank of a host would take room for all of them there
            return {}
        return {name: tensor.detach().cpu() for name, tensor in self.operator.state_dict().items()}

    def snapshot(self) -> Snapshot:
        """See :meth:`fmsci.engine.api.Engine.snapshot`."""
        if not self.world.is_main:
            return Snapshot({}, {})
        weights = {name: host_copy(tensor) for name, tensor in self.operator.state_dict().items()}
        state = {
            f"{field}.{name}": host_copy(value)
            for name, parameter in self.operator.named_parameters()
            for field, value in self.optimizer.state.get(parameter, {}).items()
        }
        return Snapshot(weights, state)

    def load(self, folder: Path) -> None:
        """See :meth:`fmsci.engine.api.Engine.load`."""
        own, parameters = self.operator.state_dict(), dict(self.operator.named_parameters())
        trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
        device, shapes = self.trained[0].device, {name: tensor.shape for name, tensor in own.items()}
        for name, value in read_by_main(self.world, device, *checkpoint_weights(folder, shapes)):
            own[name].copy_(value)
        for key, value in read_by_main(self.world, device, *checkpoint_state(folder, shapes, trained)):
            field, _, name = key.partition(".")
            target = parameters[name]
            if target.requires_grad:
                self.optimizer.state[target][field] = value.to(target.device)


def losses(loss: Loss, module: Callable[..., Tensor], piece: Piece, global_count: int) -> Tensor:
    """Return (loss, rel_l2), a piece's parts of the global batch's means."""
    u = module(piece.samples.source, piece.samples.coefficients)
    return torch.stack(piece_loss(u, piece, global_count, loss))


def whole_loss(loss: Loss, module: Callable[..., Tensor], fields: Tensor, coefficients: Tensor) -> Tensor:
    """Return the same of a piece that is the whole batch."""
    return losses(loss, module, Piece(Samples(fields, coefficients), len(fields)), len(fields))


def weighted_loss(
    loss: Loss, module: Callable[..., Tensor], fields: Tensor, coefficients: Tensor, weight: Tensor
) -> Tensor:
    """Return the same of a piece whose samples have each this weight in the batch: a number that a recording reads."""
    return losses(loss, module, Piece(Samples(fields, coefficients), len(fields)), 1) * weight


def sum_over_ranks(parameters: Sequence[nn.Parameter], compress: bool) -> None:
    """Add up the gradients of all ranks in one collective; they lie in one buffer then."""
    grads = [one.grad.flatten() for one in parameters if one.grad is not None]
    buffer = torch.cat(grads)
    if compress:
        buffer = buffer.to(torch.bfloat16)
    dist.all_reduce(buffer)
    parts = torch.split(buffer.float(), [grad.numel() for grad in grads])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def reduce_in_float32(watch: Watch, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients, as DDP does without a hook; it notes when the bucket was ready."""
    watch.ready()
    with stage("reduce"):
        work = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
    assert work is not None
    reduced: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return reduced


def reduce_in_bfloat16(watch: Watch, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients with half the bytes. (torch's own hook of this kind refuses gloo, so CPUs.)"""
    watch.ready()
    with stage("reduce"):
        halved = bucket.buffer().to(torch.bfloat16).div_(dist.get_world_size())
        work = dist.all_reduce(halved, async_op=True)
    assert work is not None

    def restore(done: torch.futures.Future[list[Tensor]]) -> Tensor:
        buffer: Tensor = bucket.buffer()
        return buffer.copy_(done.value()[0])

    reduced: torch.futures.Future[Tensor] = work.get_future().then(restore)
    return reduced


# DDP reads them, and does not understand postponed ones.
for hook in (reduce_in_float32, reduce_in_bfloat16):
    hook.__annotations__ |= {"bucket": GradBucket, "return": torch.futures.Future[Tensor]}
