"""A copy of a run's curves and pictures in Weights & Biases. It never stops a run, and needs no network.

``monitor.wandb`` names the project. Without ``WANDB_MODE=online`` in the environment everything stays in RUN/wandb, and
``wandb sync`` sends it from a machine that has a network: compute nodes have none.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmsci.config import Open, TrainSettings, parse
from fmsci.errors import UserError
from fmsci.files import read_json, write_json
from fmsci.terminal import warn
from fmsci.world import prepare_wandb

CHARACTERS = 16
IDENTITY = "wandb.json"
"""In the run folder: which run of W&B it is. A folder that is made anew is another run there."""


class Identity(Open):
    """``wandb.json``."""

    id: str


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

        def begin() -> None:
            self._run = wandb.init(
                project=settings.monitor.wandb,
                id=_identity(settings.run),
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


def _identity(run: Path) -> str:
    """Return the run's name in W&B: what the folder says, else a new one that it says from now on.

    Versions that wrote no such file took a hash of the folder's path; what they began goes on under it.
    """
    path = run / IDENTITY
    if path.exists():
        return parse(Identity, read_json(path), str(path)).id
    if (run / "wandb").exists():
        return hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:CHARACTERS]
    chosen = secrets.token_hex(CHARACTERS // 2)
    write_json(path, {"id": chosen})
    return chosen
