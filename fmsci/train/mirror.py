"""A copy of a run's curves and pictures in Weights & Biases. It never stops a run, and needs no network.

``monitor.wandb`` names the project. Without ``WANDB_MODE=online`` in the environment everything stays in RUN/wandb, and
``wandb sync`` sends it from a machine that has a network: compute nodes have none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmsci.config import TrainSettings
from fmsci.errors import UserError
from fmsci.terminal import warn
from fmsci.world import prepare_wandb


class Mirror:
    """One run in W&B, the same one after every restart. The first thing that fails is told, and ends the mirror."""

    def __init__(self, settings: TrainSettings) -> None:
        """Raises UserError where the package is missing: that is known before anything is trained."""
        mode = prepare_wandb()
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"monitor.wandb is set but W&B cannot be imported ({error}); install it with: pip install wandb, "
                "or leave monitor.wandb out"
            ) from None
        self._wandb: Any = wandb
        self._run: Any = None
        same = hashlib.sha256(str(settings.run.resolve()).encode()).hexdigest()[:16]

        def begin() -> None:
            self._run = wandb.init(
                project=settings.monitor.wandb,
                id=same,
                name=settings.run.name,
                dir=str(settings.run),
                mode=mode,
                resume="allow" if mode == "online" else None,
                config=settings.model_dump(mode="json"),
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
            )

        self._alive = True
        self._attempt(begin)

    def entry(self, step: int, values: Mapping[str, Any]) -> None:
        """Copy the curves' points of a step."""
        self._attempt(lambda: self._run.log(dict(values), step=step))

    def picture(self, tag: str, step: int, pixels: NDArray[np.uint8]) -> None:
        """Copy a picture."""
        self._attempt(lambda: self._run.log({tag: self._wandb.Image(pixels)}, step=step))

    def close(self) -> None:
        """Write out what is left."""
        if self._run is not None:
            self._attempt(lambda: self._run.finish())

    def _attempt(self, what: Callable[[], Any]) -> None:
        if not self._alive:
            return
        try:
            what()
        except Exception as error:  # whatever it is: the run has its own record
            self._alive = False
            warn(f"W&B fails and is left out from here on ({type(error).__name__}: {error}); the run goes on")
