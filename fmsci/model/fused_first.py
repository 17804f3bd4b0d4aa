"""The lift and the first Fourier layer on a GPU in one step: no lifted field is made, in either direction.

The equations are those of :mod:`fmsci.model.first_layer`. Forward the kernels pass over x, its c channels last, twice,
and over the output once:

    X = transform of x,   V(k) = X(k) L^T + [k = 0] sqrt(H W) l,   out = S(v) + x (A L)^T + (A l + b)

and backwards over its gradient twice: G = transform of dout, and dM = dout^T x, from which

    dV(k) = G(k) W(k)^H,   dL = sum_k dV(k)^T X(k) + A^T dM,   dA = dM L^T + db l^T

Kept are x, the caller's own, and X: its copy with channels last and V are small or quick to make again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fmsci.model.fused import from_spectrum, mix, mix_grad, sum_of_means, synthesise, to_spectrum, waves
from fmsci.model.precision import as_it_is, precision
from fmsci.model.tiles import tiles
from fmsci.stages import named, stage


def lifted_layer(x: Tensor, lift: Tensor, lift_bias: Tensor, *layer: Any) -> Tensor:
    """Return the first layer's output of x (B, c, H, W), (B, H, W, d), which has no gradient of x.

    ``lift``: (d, c); ``layer``: spectral, pointwise and bias of :class:`fmsci.model.layer.FourierLayer`, and the number
    type of the output. Weights are float32.
    """
    out: Tensor = _Lifted.apply(x, lift, lift_bias, *layer)  # type: ignore[no-untyped-call]
    return out


class _Lifted(torch.autograd.Function):
    """Lift and layer, and their gradient; weights in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        lift: Tensor,
        lift_bias: Tensor,
        weight: Tensor,
        pointwise: Tensor,
        bias: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        height, width = x.shape[2:]
        along_y, along_x = waves(height, width, weight.shape[2], dtype, x.device, precision())
        points = _channels_last(x, dtype)
        of_x = to_spectrum(points, along_x[False][0], along_y, False)
        spectrum = _lifted(of_x, lift, lift_bias, math.sqrt(height * width))
        q = from_spectrum(mix(spectrum, weight, adjoint=False), along_y)
        with stage("pointwise"):
            columns, constant = pointwise @ lift, torch.addmv(bias, pointwise, lift_bias)
        out = synthesise(q, along_x[True][1], points, columns, constant, False)
        _, of_lift, _, of_weight, of_pointwise, _, _ = ctx.needs_input_grad
        kept = x if of_lift or of_pointwise else None, of_x if of_lift or of_weight else None
        ctx.save_for_backward(*kept, lift, lift_bias, weight, pointwise)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, of_x, lift, lift_bias, weight, pointwise = ctx.saved_tensors
        _, of_lift, of_lift_bias, of_weight, of_pointwise, of_bias, _ = ctx.needs_input_grad
        grad = grad.contiguous()
        _, height, width, _ = grad.shape
        root = math.sqrt(height * width)
        along_y, along_x = waves(height, width, weight.shape[2], grad.dtype, grad.device, precision())
        grad_lift = grad_lift_bias = grad_weight = grad_pointwise = None
        with as_it_is(grad):
            grad_mixed = to_spectrum(grad, along_x[True][0], along_y, False)
            grad_bias = sum_of_means(grad_mixed, root)
            if of_weight:
                grad_weight = mix_grad(_lifted(of_x, lift, lift_bias, root), grad_mixed, weight)
            if of_lift or of_pointwise:
                grad_columns = _outer(grad, _channels_last(x, grad.dtype))
            if of_pointwise:
                grad_pointwise = torch.outer(grad_bias, lift_bias).addmm_(grad_columns, lift.t())
            if of_lift or of_lift_bias:
                back = mix(grad_mixed, weight, adjoint=True)
            if of_lift:
                grad_lift = _outer(back, of_x).addmm_(pointwise.t(), grad_columns)
            if of_lift_bias:
                grad_lift_bias = torch.addmv(sum_of_means(back, root), pointwise.t(), grad_bias)
        return None, grad_lift, grad_lift_bias, grad_weight, grad_pointwise, grad_bias if of_bias else None, None


def _channels_last(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy (B, H, W, c) of x in one pass, which changes the number type, too."""
    return x.to(dtype, memory_format=torch.channels_last).permute(0, 2, 3, 1).contiguous()


@named("lift")
def _lifted(of_x: Tensor, lift: Tensor, lift_bias: Tensor, root: float) -> Tensor:
    """Return the spectrum of the lifted field, (B, 2, K, c) -> (B, 2, K, d)."""
    spectrum = torch.matmul(of_x, lift.t().to(of_x.dtype))
    spectrum[:, 0, 0].add_(lift_bias, alpha=root)
    return spectrum


@named("pointwise")
def _outer(grad: Tensor, v: Tensor) -> Tensor:
    """Return grad^T v, summed over all but the channels in float32: (..., d), (..., c) -> (d, c)."""
    from fmsci.model.kernels import field, start

    channels, given = grad.shape[-1], v.shape[-1]
    points = v.numel() // given
    programs = min(points, tiles("outer", channels, v.dtype, precision())["programs"])
    parts = grad.new_empty(programs, channels, given, dtype=torch.float32)
    start.start(
        field.outer,
        lambda tile: (programs,),
        (grad, v, parts, points),
        v.dtype,
        {"BC": channels, "BCI": given},
        C=channels,
        CI=given,
        PRECISION=precision(),
    )
    return parts.sum(0)
