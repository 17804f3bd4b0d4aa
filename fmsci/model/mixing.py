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
    return _rows(spectrum)


@named("mix")
def mix(rows: Tensor, weight: Tensor) -> Tensor:
    """Multiply each wavenumber by its complex matrix; return (2, B, 2m, m, D)."""
    real, imag = weight.flatten(1, 2)
    return _product(rows, _turned(rows, 1), real, imag, weight)


@named("mix")
def gradients_of_mixing(rows: Tensor, grad: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the spectrum, (2, B, 2m, m, C), and of the matrices; ``grad``: of the mixed spectrum.

    That of the spectrum is ``grad`` times the conjugate transposes.
    """
    above = _rows(grad)
    turned = _turned(above, -1)
    grad_weight = torch.empty_like(weight)
    columns = rows.transpose(1, 2)
    for target, part in zip(grad_weight.flatten(1, 2), (above, turned), strict=True):
        torch.bmm(columns, part, out=target)
    real, imag = (plane.transpose(1, 2) for plane in weight.flatten(1, 2))
    return _product(above, turned, real, imag, weight), grad_weight


def _rows(spectrum: Tensor) -> Tensor:
    rows = spectrum.flatten(0, 1).flatten(1, 2).transpose(0, 1)
    return rows.contiguous() if spectrum.shape[-1] < COPIED_BELOW else rows


def _turned(rows: Tensor, sign: int) -> Tensor:
    """Return the rows of i V (``sign`` 1) or -i V (-1)."""
    real, imag = rows.chunk(2, dim=1)
    return torch.cat((-imag, real) if sign > 0 else (imag, -real), dim=1)


def _product(rows: Tensor, turned: Tensor, real: Tensor, imag: Tensor, weight: Tensor) -> Tensor:
    mixed = torch.bmm(rows, real).baddbmm_(turned, imag)
    return mixed.view(*weight.shape[1:3], 2, rows.shape[1] // 2, -1).permute(2, 3, 0, 1, 4).contiguous()
