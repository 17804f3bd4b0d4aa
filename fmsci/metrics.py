"""Losses and errors of predicted fields. Pure functions of tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def squared_error(u: Tensor, target: Tensor) -> Tensor:
    """Return sum over the grid of (u - u*)^2 for each sample, (B, H, W) -> (B,): the paper's training loss."""
    return (u - target).square().sum(dim=(1, 2))


def relative_squared_error(u: Tensor, target: Tensor) -> Tensor:
    """Return ||u - u*||_2^2 / ||u*||_2^2 for each sample, (B, H, W) -> (B,): each solution counts alike, however large.

    Of a solution that is 0 everywhere, ||u||_2^2.
    """
    size = target.square().sum(dim=(1, 2))
    return squared_error(u, target) / torch.where(size > 0, size, 1.0)


Loss = Callable[[Tensor, Tensor], Tensor]
"""(u, u*), both (B, H, W), -> (B,)"""

LOSSES: dict[str, Loss] = {"squared": squared_error, "relative": relative_squared_error}
"""By the names of ``optim.loss``; the mean over a batch is what training brings down."""


def relative_l2(u: Tensor, target: Tensor) -> Tensor:
    """Return ||u - u*||_2 / ||u*||_2 for each sample, (B, H, W) -> (B,): the error that is reported.

    Of a solution that is 0 everywhere, ||u||_2: there is nothing to divide by.
    """
    size = target.norm(dim=(1, 2))
    error: Tensor = (u - target).norm(dim=(1, 2)) / torch.where(size > 0, size, 1.0)
    return error


def spectrum(field: Tensor) -> Tensor:
    """Return the share of sum over the grid of v^2 in each shell of wavenumbers, (B, H, W) -> (B, K + 1), real fields.

    Shell k holds the waves with k - 1/2 <= |(kx, ky)| < k + 1/2, in units of 2 pi / side; K reaches the grid's corner,
    so the shells add up to the whole (Parseval).
    """
    height, width = field.shape[1:]
    energy = torch.fft.rfft2(field.float(), norm="ortho").abs().square()
    energy[:, :, 1 : (width + 1) // 2] *= 2.0  # each of these stands for its conjugate too
    ky = torch.fft.fftfreq(height, 1.0 / height, device=field.device)
    kx = torch.fft.rfftfreq(width, 1.0 / width, device=field.device)
    shells = torch.hypot(ky[:, None], kx).round().long().flatten()
    found: Tensor = energy.new_zeros(len(field), round((height**2 + width**2) ** 0.5 / 2) + 2)
    return found.index_add_(1, shells, energy.flatten(1))


def error_spectrum(u: Tensor, target: Tensor) -> Tensor:
    """Return error and solution by shell over ||u*||_2^2 of the sample, (B, H, W) -> (B, 2, K + 1).

    The first row adds up to the square of :func:`relative_l2`, the second to 1 (to 0 where the solution is 0).
    """
    whole = target.square().sum(dim=(1, 2))[:, None]
    whole = torch.where(whole > 0, whole, 1.0)
    return torch.stack((spectrum(u - target) / whole, spectrum(target) / whole), dim=1)
