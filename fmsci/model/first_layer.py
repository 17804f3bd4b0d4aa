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

from fmsci.model.mixing import by_wavenumber, gradients_of_mixing, mix
from fmsci.model.pieces import add_product, count_at_once, pieces
from fmsci.model.transform import transform
from fmsci.stages import stage


def lifted_layer(x: Tensor, lift: Tensor, lift_bias: Tensor, *layer: Tensor) -> Tensor:
    """Return the first layer's output of x (B, c, H, W), (B, H, W, d).

    ``lift``: (d, c); ``layer``: spectral, pointwise and bias of :class:`fmsci.model.layer.FourierLayer`.
    """
    out: Tensor = _Lifted.apply(x, lift, lift_bias, *layer)  # type: ignore[no-untyped-call]
    return out


def _spectrum(of_x: Tensor, lift: Tensor, lift_bias: Tensor, root: float) -> Tensor:
    """Return the spectrum of the lifted field, (2, B, 2m, m, c) -> (2, B, 2m, m, d)."""
    spectrum = torch.matmul(of_x, lift.t())
    spectrum[0, :, 0, 0] += lift_bias * root
    return spectrum


class _Lifted(torch.autograd.Function):
    """Lift and layer, and their gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lift: Tensor, lift_bias: Tensor, weight: Tensor, pointwise: Tensor, bias: Tensor
    ) -> Tensor:
        batch, _, height, width = x.shape
        root = math.sqrt(height * width)
        waves = transform(height, width, weight.shape[2], x.dtype, x.device)
        out = x.new_empty(batch, height, width, len(bias))
        at_once = count_at_once(out, out[0].numel() * out.element_size())
        columns = (pointwise @ lift).t()
        products = waves.room(x.movedim(1, -1), batch)
        for part, target, *room in pieces(at_once, x, out, *products):
            waves.analyse_few(part, room)
            with stage("pointwise"):
                torch.bmm(part.flatten(2).transpose(1, 2), columns.expand(len(part), -1, -1), out=target.flatten(1, 2))
        del room  # or these views would keep the products
        of_x = waves.collect(products)
        rows = by_wavenumber(_spectrum(of_x, lift, lift_bias, root))
        mixed = mix(rows, weight)
        mixed[0, :, 0, 0] += (torch.mv(pointwise, lift_bias) + bias) * root
        products = waves.spread(mixed)
        for target, *found in pieces(at_once, out, *products):
            waves.synthesise(found, target, twice=True)
        ctx.save_for_backward(x, lift, lift_bias, weight, pointwise, of_x)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, lift, lift_bias, weight, pointwise, of_x = ctx.saved_tensors
        grad = grad.contiguous()
        batch, channels, height, width = x.shape
        root = math.sqrt(height * width)
        waves = transform(height, width, weight.shape[2], x.dtype, x.device)
        at_once = count_at_once(grad, grad[0].numel() * grad.element_size())
        wide = torch.promote_types(x.dtype, torch.float32)
        products = waves.room(grad, batch)
        grad_columns = torch.zeros(channels, len(lift), dtype=wide, device=x.device)
        for part, above, *room in pieces(at_once, x, grad, *products):
            waves.analyse(above, room, twice=True)
            with stage("pointwise"):
                for one, points in zip(part.flatten(2), above.flatten(1, 2), strict=True):
                    add_product(grad_columns, one, points)
        del room  # or these views would keep the products
        grad_mixed = waves.collect(products)
        grad_bias = grad_mixed[0, :, 0, 0].sum(0) * root
        rows = by_wavenumber(_spectrum(of_x, lift, lift_bias, root))
        back, grad_weight = gradients_of_mixing(rows, grad_mixed, weight)
        narrow = grad_columns.t().to(x.dtype)
        grad_pointwise = narrow @ lift.t() + torch.outer(grad_bias, lift_bias)
        grad_lift = back.flatten(0, 3).t() @ of_x.flatten(0, 3) + pointwise.t() @ narrow
        grad_lift_bias = back[0, :, 0, 0].sum(0) * root + torch.mv(pointwise.t(), grad_bias)
        grad_x = None
        if ctx.needs_input_grad[0]:
            field = torch.matmul(grad, pointwise @ lift)
            waves.synthesise(waves.spread(torch.matmul(back, lift)), field, twice=False)
            grad_x = field.movedim(-1, 1)
        return grad_x, grad_lift, grad_lift_bias, grad_weight, grad_pointwise, grad_bias
