"""What every engine does: five methods. The model is single-device code; parallelism is applied here, from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from fmsci.dataset.loader import Batch


class Engine(Protocol):
    """Runs optimizer steps on all ranks. Every method is collective: all ranks call it together."""

    def step(self, batch: Batch, lr: float) -> Tensor:
        """Forward, backward, reduce, clip, update; return this rank's part of the batch's (loss, rel_l2), shape (2,).

        The loss is the mean over the GLOBAL batch, and so is its gradient, however the batch is cut. The parts of all
        ranks add up to the batch's values. Nothing here waits for the device.
        """
        ...

    def predict(self, source: Tensor, coefficients: Tensor) -> Tensor:
        """Return the solution without gradients, (B, H, W) and (B, K) -> (B, H, W)."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Return the full weights by parameter name, on the CPU (complete on rank 0 at least)."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights (``model.safetensors``) and optimizer state into a checkpoint's folder."""
        ...

    def load(self, folder: Path) -> None:
        """Take weights and optimizer state from a checkpoint's folder."""
        ...
