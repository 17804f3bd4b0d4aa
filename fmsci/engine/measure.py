"""The error of a model on a split: every sample exactly once, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmsci.dataset.order import share
from fmsci.dataset.samples import SampleSource
from fmsci.engine.collective import total
from fmsci.metrics import Loss, error_spectrum, relative_l2, squared_error
from fmsci.world import World

BATCH = 32
FIELD_BYTES = 2 << 30
"""A layer's output over a batch takes this at most, where several samples make one: training may have no room for more
beside its own, however small its pieces are (``engine.accumulate``)."""

Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Measured:
    """Means over the samples of a split."""

    rel_l2: float
    loss: float
    count: int
    spectrum: NDArray[np.float64] | None = None
    """Error and solution by shell of wavenumbers, (2, K + 1), see :func:`fmsci.metrics.error_spectrum`."""


def batch_for(width: int, grid: int) -> int:
    """Return how many samples of a grid are measured at once by a model of so many channels."""
    return max(1, min(BATCH, FIELD_BYTES // (4 * width * grid**2)))


def measure(
    predict: Predict,
    samples: SampleSource,
    world: World,
    device: torch.device,
    batch_size: int = BATCH,
    between: Callable[[], None] = lambda: None,
    spectra: bool = False,
    loss: Loss = squared_error,
) -> Measured:
    """Return mean relative L2 error and ``loss`` over the split; sums are reduced in float64. Collective.

    ``spectra``: by wavenumber too. ``between`` is called after each batch and may raise. Every rank has equally many
    batches, the last maybe of a stand-in that does not count: ``predict`` and ``between`` may be collective.
    """
    numbers = np.arange(len(samples))
    mine = numbers[share(len(numbers), world.size, world.rank)]
    most = len(numbers[share(len(numbers), world.size, 0)])
    error = losses = 0.0
    shells = torch.zeros(())
    for start in range(0, most, batch_size):
        chosen = mine[start : start + batch_size]
        part = samples.gather(chosen if len(chosen) else numbers[:1]).to(device)
        u = predict(part.source, part.coefficients)
        if len(chosen):
            error += float(relative_l2(u, part.solution).double().sum())
            losses += float(loss(u, part.solution).double().sum())
        if spectra:
            shells = shells + error_spectrum(u, part.solution)[: len(chosen)].double().sum(0).cpu()
        between()
    error, losses, count, *by_shell = total([error, losses, float(len(mine)), *shells.flatten().tolist()], device)
    spectrum = np.array(by_shell).reshape(2, -1) / count if spectra else None
    return Measured(error / count, losses / count, int(count), spectrum)
