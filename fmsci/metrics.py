"""Losses and errors of predicted fields. Pure functions of tensors."""

from __future__ import annotations

from torch import Tensor


def squared_error(u: Tensor, target: Tensor) -> Tensor:
    """Return sum over the grid of (u - u*)^2 for each sample, (B, H, W) -> (B,): the training loss."""
    return (u - target).square().sum(dim=(1, 2))


def relative_l2(u: Tensor, target: Tensor) -> Tensor:
    """Return ||u - u*||_2 / ||u*||_2 for each sample, (B, H, W) -> (B,): the error that is reported."""
    error: Tensor = (u - target).norm(dim=(1, 2)) / target.norm(dim=(1, 2))
    return error
