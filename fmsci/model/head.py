"""The head of the operator: Linear(d, 2d), gelu, Linear(2d, 1) at each point; the wide field inside is never whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fmsci.model import fused, fused_head
from fmsci.model.pieces import count_at_once, pieces, points_first, samples_first
from fmsci.model.pointwise import HeadAtPoints
from fmsci.model.precision import as_it_is, compute_dtype
from fmsci.stages import named


class Head(nn.Module):
    """u = gelu(v H^T + h) . o + q, (B, H, W, d) -> (B, H, W, 1); the result is float32 also where the rest is not."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner, outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, 1)
        self.inner, self.inner_bias = inner.weight, inner.bias
        self.outer, self.outer_bias = outer.weight, outer.bias

    def forward(self, v: Tensor) -> Tensor:
        """Return the field, (B, H, W, d) -> (B, H, W, 1)."""
        dtype = compute_dtype(v)
        with as_it_is(v):
            v, by_hand = v.to(dtype), not torch.compiler.is_compiling()
            if by_hand and fused.serves(v, v.shape[-1]):
                return fused_head.head(v, self.inner, self.inner_bias, self.outer, self.outer_bias)
            inner, inner_bias = self.inner.to(dtype), self.inner_bias.to(dtype)
            if by_hand:
                as_it_lies = v.is_contiguous()  # out of the fast transform; else all samples of a point lie together
                field = v if as_it_lies else points_first(v)
                given = (field.view(-1, v.shape[-1]), inner, inner_bias, self.outer, self.outer_bias)
                u: Tensor = _Fused.apply(*given).view(*field.shape[:-1], 1)  # type: ignore[no-untyped-call]
                return u if as_it_lies else samples_first(u)
            h = functional.gelu(functional.linear(v, inner, inner_bias))
            return functional.linear(h.to(self.outer.dtype), self.outer, self.outer_bias)


class _Fused(torch.autograd.Function):
    """The head and its gradient, of points (N, d) -> (N, 1); they alone are saved."""

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor
    ) -> Tensor:
        at_once = count_at_once(points, len(inner) * points.element_size())
        u = outer.new_empty(len(points), 1)
        head = HeadAtPoints(inner, inner_bias, outer)
        for part, target in pieces(at_once, len(points), points, u):
            head.values(part, outer_bias, target)
        ctx.save_for_backward(points, inner, inner_bias, outer)
        return u

    @staticmethod
    @torch.autograd.function.once_differentiable
    @named("head")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        points, inner, inner_bias, outer = ctx.saved_tensors
        grad = grad.contiguous()
        at_once = count_at_once(points, len(inner) * points.element_size())
        grad_v, head = torch.empty_like(points), HeadAtPoints(inner, inner_bias, outer)
        for part, above, target in pieces(at_once, len(points), points, grad, grad_v, back=True):
            head.add_gradient(part, above, target)
        kind = inner.dtype
        return grad_v, head.grad_inner.to(kind), head.grad_bias.to(kind), head.grad_outer, grad.sum(0)
