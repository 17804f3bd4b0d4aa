"""One complex matrix for each kept wavenumber, in real products, and their gradient.

A product is (2B, C) (C, D) for each of M = 2 m^2 wavenumbers: real and imaginary parts of all samples stand below each
other as rows, so that each plane of the weights, (2, 2m, m, C, D), is read once. i V is the same rows: (-imag, real).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fmsci.stages import named

COPIED_BELOW = 128
"""Channels below which rows lie close for the products: there a copy costs less than it saves (docs/benchmarks.md)."""


@named("mix")
def by_wavenumber(spectrum: Tensor) -> Tensor:
    """Return (2, B, 2m, m, C) as rows (M, 2B, C)."""
    rows = spectrum.flatten(0, 1).flatten(1, 2).transpose(0, 1)
    return rows.contiguous() if spectrum.shape[-1] < COPIED_BELOW else rows


@named("mix")
def turned(rows: Tensor, sign: int) -> Tensor:
    """Return the rows of i V (``sign`` 1) or -i V (-1)."""
    real, imag = rows.chunk(2, dim=1)
    return torch.cat((-imag, real) if sign > 0 else (imag, -real), dim=1)


@named("mix")
def mix(rows: Tensor, turned_rows: Tensor, weight: Tensor, adjoint: bool = False) -> Tensor:
    """Multiply each wavenumber by its complex matrix, or by its conjugate transpose; return (2, B, 2m, m, D).

    ``turned_rows``: with sign 1, or with sign -1 for the adjoint.
    """
    real, imag = weight.flatten(1, 2)
    if adjoint:
        real, imag = real.transpose(1, 2), imag.transpose(1, 2)
    mixed = torch.bmm(rows, real).baddbmm_(turned_rows, imag)
    return mixed.view(*weight.shape[1:3], 2, rows.shape[1] // 2, -1).permute(2, 3, 0, 1, 4).contiguous()


@named("mix")
def gradient_of_mixing(rows: Tensor, grad: Tensor, turned_grad: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the matrices; ``grad``: rows of the mixed spectrum's, ``turned_grad``: with sign -1."""
    grad_weight = torch.empty_like(weight)
    columns = rows.transpose(1, 2)
    for target, above in zip(grad_weight.flatten(1, 2), (grad, turned_grad), strict=True):
        torch.bmm(columns, above, out=target)
    return grad_weight
