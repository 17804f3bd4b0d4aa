"""What a Fourier layer and the head do at each point, on a CPU in one compiled pass, else by torch's operations.

By torch's a step of 1M parameters spends half of its time here: gelu of a number takes 0.7 ns and its gradient 1.4, an
operation goes over a piece of a field once more, and products of 16 columns reach half of a core's rate.
kernels/pointwise.c does it in one pass, and its gelu is nearer to float64. Where it was not compiled, for other widths
and for other numbers than float32 on a CPU, torch's operations do the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fmsci.model.compiled import REGISTER, call, in_memory, library
from fmsci.model.pieces import add_product

WIDEST = 64
"""The compiled pass takes widths that are whole multiples of REGISTER, up to this one: from there on products count
most, and torch's are as fast (docs/benchmarks.md)."""


def serves(points: Tensor, *others: Tensor) -> bool:
    """Tell whether the compiled pass takes points (N, d) and what belongs to them."""
    fits = points.shape[1] % REGISTER == 0 and points.shape[1] <= WIDEST
    return fits and in_memory(points, *others)


def _room(points: Tensor, count: int) -> Tensor:
    functions = library()
    assert functions is not None
    return points.new_empty(functions.fmsci_blocks(len(points)), count)


def activated_product(z: Tensor, columns: Tensor, out: Tensor) -> Tensor:
    """Return gelu(z), (N, d), and write gelu(z) @ columns."""
    if columns.shape != (z.shape[1], z.shape[1]) or not serves(z, columns, out):
        v = functional.gelu(z)
        torch.mm(v, columns, out=out)
        return v
    v = torch.empty_like(z)
    call("activated_product", z, columns, v, out, *z.shape)
    return v


def layer_gradient(above: Tensor, z: Tensor, pointwise: Tensor, grad: Tensor, grad_pointwise: Tensor) -> None:
    """Make (grad + above @ pointwise) gelu'(z) of ``grad``, and add above^T gelu(z) to ``grad_pointwise``."""
    if pointwise.shape == (z.shape[1], z.shape[1]) and serves(z, above, pointwise, grad, grad_pointwise):
        room = _room(z, grad_pointwise.numel())
        call("layer_gradient", above, z, pointwise, grad, grad_pointwise, room, *z.shape)
    else:
        add_product(grad_pointwise, above.t(), functional.gelu(z))
        grad.addmm_(above, pointwise)
        torch.ops.aten.gelu_backward.grad_input(grad, z, grad_input=grad)


class HeadAtPoints:
    """gelu(v inner^T + inner_bias) . outer + outer_bias of points v, (N, d) -> (N, 1), and its gradient.

    Points come some at a time. The gradients of the parameters are summed up here, in the parameters' own precision:
    bfloat16 would lose the later ones.
    """

    def __init__(self, inner: Tensor, inner_bias: Tensor, outer: Tensor) -> None:
        self.inner, self.inner_bias, self.outer = inner, inner_bias, outer
        self.columns = inner.t().contiguous()
        self.sums = torch.zeros(inner.numel() + 2 * outer.numel(), dtype=outer.dtype, device=outer.device)
        sizes = [inner.numel(), outer.numel(), outer.numel()]
        grad_inner, grad_outer, self.grad_bias = torch.split(self.sums, sizes)
        self.grad_inner, self.grad_outer = grad_inner.view_as(inner), grad_outer.view_as(outer)

    def _serves(self, v: Tensor, *others: Tensor) -> bool:
        width = v.shape[1]
        fits = self.inner.shape == (2 * width, width) and self.inner_bias.numel() == self.outer.numel() == 2 * width
        return fits and serves(v, self.inner, self.inner_bias, self.outer, *others)

    def values(self, v: Tensor, outer_bias: Tensor, out: Tensor) -> None:
        """Write the values at points v."""
        if self._serves(v, out):
            given = (v, self.columns, self.inner_bias, self.outer, outer_bias.item(), out)
            call("head", *given, *v.shape)
        else:
            h = torch.ops.aten.gelu_(torch.addmm(self.inner_bias, v, self.columns))
            torch.addmm(outer_bias, h.to(self.outer.dtype), self.outer.t(), out=out)

    def add_gradient(self, v: Tensor, above: Tensor, out: Tensor) -> None:
        """Write the gradient of v, of that of the values, and add those of the parameters to the sums."""
        if self._serves(v, above, out):
            room = _room(v, len(self.sums))
            given = (v, above, self.columns, self.inner, self.inner_bias, self.outer, out, self.sums, room)
            call("head_gradient", *given, *v.shape)
            return
        h = torch.addmm(self.inner_bias, v, self.columns)
        a = functional.gelu(h)
        self.grad_outer.addmm_(above.t(), a.to(self.outer.dtype))
        grad_h = torch.mul(above, self.outer, out=a)  # a has served
        torch.ops.aten.gelu_backward.grad_input(grad_h, h, grad_input=grad_h)
        self.grad_bias += grad_h.sum(0, dtype=self.outer.dtype)
        add_product(self.grad_inner, grad_h.t(), v)
        torch.mm(grad_h, self.inner, out=out)
