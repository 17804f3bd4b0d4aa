"""The error of a model on a split: every sample exactly once, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fmsci.dataset.order import share
from fmsci.dataset.samples import SampleSource
from fmsci.engine.collective import total
from fmsci.metrics import relative_l2, squared_error
from fmsci.world import World

Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Measured:
    """Means over the samples of a split."""

    rel_l2: float
    loss: float
    count: int


def measure(
    predict: Predict, samples: SampleSource, world: World, device: torch.device, batch_size: int = 32
) -> Measured:
    """Return mean relative L2 error and loss over the split; sums are reduced in float64. Collective."""
    numbers = np.arange(len(samples))[share(len(samples), world.size, world.rank)]
    error = loss = 0.0
    for start in range(0, len(numbers), batch_size):
        part = samples.gather(numbers[start : start + batch_size]).to(device)
        u = predict(part.source, part.coefficients)
        error += float(relative_l2(u, part.solution).double().sum())
        loss += float(squared_error(u, part.solution).double().sum())
    error, loss, count = total([error, loss, float(len(numbers))], device)
    return Measured(error / count, loss / count, int(count))
