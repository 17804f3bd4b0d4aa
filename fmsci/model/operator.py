"""From physical quantities to the solution: normalisation, constant channels, FNO. This is what is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fmsci.model.fno import FNO
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture


class SolutionOperator(nn.Module):
    """(source f, coefficients c) -> solution u.

    With r = (||f||_2 / n) / s for each sample, the channels are f / r and c / (r c_scale): (10 f, 10 K) gives the same
    input as (f, K), as it has the same solution. The target is not scaled.

    Source: arXiv 2306.00258, section 3.
    """

    source_scale: Tensor
    coefficient_scales: Tensor

    def __init__(self, architecture: Architecture, scales: Scales, **how: Any) -> None:
        """``how``: backend, initial and recompute of :class:`fmsci.model.fno.FNO`."""
        super().__init__()
        assert architecture.in_channels == 1 + len(scales.coefficients), "one channel for f and one per coefficient"
        self.scales = scales
        self.fno = FNO(**architecture.as_dict(), **how)
        self.register_buffer("source_scale", torch.tensor(scales.source), persistent=False)
        values: Sequence[float] = list(scales.coefficients.values())
        self.register_buffer("coefficient_scales", torch.tensor(values), persistent=False)

    def channels(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """Return the input channels, (B, H, W) and (B, K) -> (B, 1 + K, H, W)."""
        norm = source.square().mean(dim=(1, 2)).sqrt()
        ratio = torch.where(norm > 0, norm, self.source_scale) / self.source_scale
        scaled = coefficients / (ratio[:, None] * self.coefficient_scales)
        constant = scaled[:, :, None, None].expand(-1, -1, *source.shape[1:])
        return torch.cat(((source / ratio[:, None, None])[:, None], constant), dim=1)

    def forward(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """Return the predicted solution, (B, H, W) and (B, K) -> (B, H, W)."""
        u: Tensor = self.fno(self.channels(source, coefficients))
        return u[:, 0]
