"""The number formats of a step. Parameters, gradients and optimizer state are float32 in all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmsci.model.operator import SolutionOperator


class Autocast(nn.Module):
    """The operator with its matrix products in bfloat16; inputs, parameters, their sums and the result stay float32."""

    def __init__(self, operator: SolutionOperator) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """Return the predicted solution in float32, (B, H, W) and (B, K) -> (B, H, W)."""
        with torch.autocast(source.device.type, torch.bfloat16):
            u: Tensor = self.operator(source, coefficients)
        return u.float()


def in_precision(operator: SolutionOperator, precision: str) -> nn.Module:
    """Return the module that computes the operator in ``precision``: fp32, tf32 or bf16.

    tf32 is a switch of the whole process, for matrix products on NVIDIA GPUs; elsewhere it is fp32.
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return Autocast(operator) if precision == "bf16" else operator
