"""The lift and the first Fourier layer in one step of differentiation: no lifted field is ever made.

There is no activation between them, and the lift does the same at each point. So the layer's spectrum is that of the
few input channels, lifted, and its pointwise product is one of the input channels too:

    v = x L^T + l,     V(k) = X(k) L^T + [k = 0] sqrt(H W) l,     out = S(v) + x (A L)^T + (A l + b)

With c input channels instead of d, the transform forward costs c / d of another layer's, and the backward pass makes no
field at all: the lift's gradient comes from spectra and from products with x. This form is a CPU's; a GPU's is
:mod:`fmsci.model.fused_first`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fmsci.model.mixing import gradients_of_mixing, mix
from fmsci.model.pieces import add_product, count_at_once, pieces, samples_first
from fmsci.model.transform import transform
from fmsci.stages import stage


def lifted_layer(x: Tensor, lift: Tensor, lift_bias: Tensor, *layer: Tensor) -> Tensor:
    """Return the first layer's output of x (B, c, H, W), (B, H, W, d).

    ``lift``: (d, c); ``layer``: spectral, pointwise and bias of :class:`fmsci.model.layer.FourierLayer`.
    """
    out: Tensor = _Lifted.apply(x, lift, lift_bias, *layer)  # type: ignore[no-untyped-call]
    return samples_first(out)


def _channels_last(x: Tensor) -> Tensor:
    """Return (B, c, H, W) as (H, W, B, c): a transposed matrix, which is copied fast."""
    batch, channels, height, width = x.shape
    return x.reshape(batch * channels, -1).t().contiguous().view(height, width, batch, channels)


def _lifted_spectrum(of_x: Tensor, lift: Tensor, lift_bias: Tensor, root: float) -> Tensor:
    """Return the spectrum of the lifted field, (2 m^2, 2B, c) -> (2 m^2, 2B, d)."""
    spectrum = torch.matmul(of_x, lift.t())
    spectrum[0, : of_x.shape[1] // 2] += lift_bias * root
    return spectrum


class _Lifted(torch.autograd.Function):
    """Lift and layer, and their gradient: x (B, c, H, W) -> (H, W, B, d)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lift: Tensor, lift_bias: Tensor, weight: Tensor, pointwise: Tensor, bias: Tensor
    ) -> Tensor:
        given = _channels_last(x)
        height, width, batch, channels = given.shape
        root = math.sqrt(height * width)
        waves = transform(height, width, weight.shape[2], x.dtype, x.device)
        out = x.new_empty(height, width, batch, len(bias))
        at_once = count_at_once(out, out[0].numel() * out.element_size())
        columns = (pointwise @ lift).t()
        products = waves.room(x, batch * channels)
        points, targets = given.view(-1, channels), out.view(-1, len(bias))
        for part, *room in pieces(at_once, height, points, *products):
            waves.analyse(part, room, twice=False)
        of_x = waves.collect(products, batch)
        mixed = mix(_lifted_spectrum(of_x, lift, lift_bias, root), weight)
        mixed[0, :batch] += (torch.mv(pointwise, lift_bias) + bias) * root
        products = waves.room(x, batch * len(bias))
        waves.spread(mixed, products)
        for part, target, *found in pieces(at_once, height, points, targets, *products, back=True):
            waves.synthesise(found, target, twice=True, add=False)
            with stage("pointwise"):
                target.addmm_(part, columns)
        ctx.save_for_backward(x, lift, lift_bias, weight, pointwise, of_x)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, lift, lift_bias, weight, pointwise, of_x = ctx.saved_tensors
        grad, given = grad.contiguous(), _channels_last(x)
        height, width, batch, channels = given.shape
        root = math.sqrt(height * width)
        waves = transform(height, width, weight.shape[2], x.dtype, x.device)
        at_once = count_at_once(grad, grad[0].numel() * grad.element_size())
        wide = torch.promote_types(x.dtype, torch.float32)
        products = waves.room(grad, batch * len(lift))
        grad_columns = torch.zeros(channels, len(lift), dtype=wide, device=x.device)
        points, above = given.view(-1, channels), grad.view(-1, len(lift))
        for part, one, *room in pieces(at_once, height, points, above, *products):
            waves.analyse(one, room, twice=True)
            with stage("pointwise"):
                add_product(grad_columns, part.t(), one)
        grad_mixed = waves.collect(products, batch)
        del products, room  # the largest gradient comes now
        grad_bias = grad_mixed[0, :batch].sum(0) * root
        back, grad_weight = gradients_of_mixing(_lifted_spectrum(of_x, lift, lift_bias, root), grad_mixed, weight)
        narrow = grad_columns.t().to(x.dtype)
        grad_pointwise = narrow @ lift.t() + torch.outer(grad_bias, lift_bias)
        grad_lift = pointwise.t() @ narrow + (of_x.flatten(0, 1).t() @ back.flatten(0, 1)).t()
        grad_lift_bias = back[0, :batch].sum(0) * root + torch.mv(pointwise.t(), grad_bias)
        grad_x = None
        if ctx.needs_input_grad[0]:
            field = torch.mm(above, pointwise @ lift)
            products = waves.room(x, batch * channels)
            waves.spread(torch.matmul(back, lift), products)
            waves.synthesise(list(products), field, twice=False, add=True)
            grad_x = samples_first(field.view_as(given)).movedim(-1, 1)
        return grad_x, grad_lift, grad_lift_bias, grad_weight, grad_pointwise, grad_bias
