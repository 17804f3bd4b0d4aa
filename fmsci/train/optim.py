"""Adam and its schedule, in one place for every engine. The learning rate is a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from fmsci.config.sections import OptimSettings


def learning_rate(settings: OptimSettings, step: int, num_steps: int) -> float:
    """Return the rate of optimizer step ``step`` of ``num_steps``: linear warm-up, then cosine to 0 or constant."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / (settings.warmup + 1)
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup) / max(1, num_steps - settings.warmup)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """Return Adam without weight decay over all parameters, as arXiv 2306.00258; one fused pass over the weights."""
    return torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
