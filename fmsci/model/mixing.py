"""One complex matrix for each kept wavenumber, in real products, and their gradient.

On a CPU compiled functions do it (kernels/mixing.c): they read each matrix once forward and once backward, and write
its gradient once. Where they do not serve, torch's operations do:

a product is (2B, C) (C, D) for each of M = 2 m^2 wavenumbers: real and imaginary parts of all samples stand below each
other as rows, so that each plane of the weights, (2, 2m, m, C, D), is read once. i V is the same rows: (-imag, real).
Some wavenumbers at a time, so that what is turned stays in a core's cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fmsci.model.compiled import REGISTER, call, in_memory
from fmsci.model.gradient_room import gradient_room
from fmsci.model.pieces import count_at_once, pieces
from fmsci.stages import named

WIDEST = 256
"""The compiled functions take widths that are whole multiples of REGISTER, up to this one: a wider matrix leaves
the cache in which torch's larger products keep it (docs/benchmarks.md)."""

FAR_BYTES = 32 << 20
"""Gradients from this size on are written past the caches, which they would only empty."""

LINE_BYTES = 64

COPIED_FROM = 128
"""Channels from which a CPU copies weights before it takes their transpose, and copies their gradient to its place: a
product of few rows is slow with memory that is far (docs/benchmarks.md)."""


@named("mix")
def mix(rows: Tensor, weight: Tensor) -> Tensor:
    """Multiply each wavenumber by its complex matrix, (M, 2B, C) -> (M, 2B, D)."""
    mixed = rows.new_empty(*rows.shape[:2], weight.shape[-1])
    if _serves(rows, weight, mixed):
        call("mix", rows, weight, mixed, len(rows), rows.shape[1] // 2, *weight.shape[-2:])
        return mixed
    real, imag = weight.flatten(1, 2)
    for part, one, other, target in pieces(_at_once(rows, weight), len(rows), rows, real, imag, mixed):
        torch.bmm(part, one, out=target)
        target.baddbmm_(_turned(part, 1), other)
    return mixed


@named("mix")
def gradients_of_mixing(rows: Tensor, grad: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the spectrum, (M, 2B, C), and of the matrices; ``grad``: of the mixed spectrum.

    That of the spectrum is ``grad`` times the conjugate transposes.
    """
    back = torch.empty_like(rows)
    grad_weight = gradient_room(weight)
    if grad.shape == (*rows.shape[:2], weight.shape[-1]) and _serves(rows, weight, grad, back, grad_weight):
        far = grad_weight.nbytes >= FAR_BYTES and grad_weight.data_ptr() % LINE_BYTES == 0
        given = (rows, grad, weight, back, grad_weight)
        call("mix_gradient", *given, len(rows), rows.shape[1] // 2, *weight.shape[-2:], far)
        return back, grad_weight
    at_once = _at_once(rows, weight)
    few = weight.shape[-1] >= COPIED_FROM and weight.device.type == "cpu"
    near = weight.new_empty(min(at_once, len(rows)), *weight.shape[3:]) if few else None
    planes = (*weight.flatten(1, 2), *grad_weight.flatten(1, 2))
    for part, above, target, real, imag, *gradients in pieces(at_once, len(rows), rows, grad, back, *planes):
        turned, columns = _turned(above, -1), part.transpose(1, 2)
        room = None if near is None else near[: len(part)]
        for gradient, one in zip(gradients, (above, turned), strict=True):
            if room is None:
                torch.bmm(columns, one, out=gradient)
            else:
                gradient.copy_(torch.bmm(columns, one, out=room))
        torch.bmm(above, _adjoint(real, room), out=target)
        target.baddbmm_(turned, _adjoint(imag, room))
    return back, grad_weight


def _serves(rows: Tensor, weight: Tensor, *others: Tensor) -> bool:
    """Tell whether the compiled functions take rows and matrices that belong together."""
    planes, ky, kx, left, right = weight.shape
    fits = left % REGISTER == 0 and right % REGISTER == 0 and max(left, right) <= WIDEST
    belong = planes == 2 and rows.shape == (ky * kx, rows.shape[1], left) and rows.shape[1] % 2 == 0
    return fits and belong and in_memory(rows, weight, *others)


def _adjoint(plane: Tensor, room: Tensor | None) -> Tensor:
    return (plane if room is None else room.copy_(plane)).transpose(1, 2)


def _at_once(rows: Tensor, weight: Tensor) -> int:
    return count_at_once(rows, 2 * weight[0, 0, 0].numel() * weight.element_size(), shared=True)


def _turned(rows: Tensor, sign: int) -> Tensor:
    """Return the rows of i V (``sign`` 1) or -i V (-1)."""
    turned = torch.empty_like(rows)
    (real, imag), (first, second) = rows.chunk(2, dim=1), turned.chunk(2, dim=1)
    torch.mul(imag, -sign, out=first)
    torch.mul(real, sign, out=second)
    return turned
