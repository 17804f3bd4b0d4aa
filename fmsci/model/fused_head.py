"""The head on a GPU: three kernels; the field of 2d channels inside never leaves the chip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fmsci.model.precision import precision
from fmsci.model.tiles import cdiv, tiles
from fmsci.stages import named


class _Head(torch.autograd.Function):
    """gelu(v H^T + h) . o + q, as :class:`fmsci.model.head.Head`; weights and result in float32."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor) -> Tensor:
        from fmsci.model.kernels import head, start

        points = v.contiguous().view(-1, v.shape[-1])
        count, channels = points.shape
        out = outer.new_empty(count, 1)
        start.start(
            head.head,
            lambda tile: (cdiv(count, tile["BP"]),),
            (points, inner, inner_bias, outer, outer_bias, out, count, len(inner)),
            v.dtype,
            {"BN": len(inner), "BC": channels},
            C=channels,
            PRECISION=precision(),
        )
        ctx.save_for_backward(points, inner, inner_bias, outer)
        return out.view(*v.shape[:-1], 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @named("head")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from fmsci.model.kernels import head, start

        points, inner, inner_bias, outer = ctx.saved_tensors
        (count, channels), shape = points.shape, (*grad.shape[:-1], points.shape[-1])
        grad = grad.contiguous().view(-1, 1)
        given = (points, grad, inner, inner_bias, outer)
        lengths, of = {"BN": len(inner), "BC": channels}, {"C": channels, "PRECISION": precision()}
        grad_v = grad_inner = grad_bias = grad_outer = None
        if ctx.needs_input_grad[0]:
            grad_v = torch.empty_like(points)
            start.start(
                head.head_grad_v,
                lambda tile: (cdiv(count, tile["BP"]),),
                (*given, grad_v, count, len(inner)),
                points.dtype,
                lengths,
                **of,
            )
            grad_v = grad_v.view(shape)
        if any(ctx.needs_input_grad[1:4]):
            programs = min(count, tiles("head_grad_weights", channels, points.dtype, precision())["programs"])
            parts = [outer.new_empty(programs, *one.shape) for one in (inner, inner_bias, outer[0])]
            start.start(
                head.head_grad_weights,
                lambda tile: (programs, cdiv(len(inner), tile["BN"])),
                (*given, *parts, count, len(inner)),
                points.dtype,
                lengths,
                **of,
            )
            grad_inner, grad_bias, grad_outer = (part.sum(0) for part in parts)
            grad_outer = grad_outer[None]
        return grad_v, grad_inner, grad_bias, grad_outer, grad.sum(0) if ctx.needs_input_grad[4] else None


def head(v: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor) -> Tensor:
    """Return the head's field, (B, H, W, C) -> (B, H, W, 1)."""
    out: Tensor = _Head.apply(v, inner, inner_bias, outer, outer_bias)  # type: ignore[no-untyped-call]
    return out
