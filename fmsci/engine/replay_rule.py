"""Which steps are recorded and replayed (:mod:`fmsci.engine.replay`): a rule of integers, the same on every rank."""

from __future__ import annotations

from fmsci.config.sections import EngineSettings
from fmsci.model.sizes import Architecture

SHORT = 1 << 25
"""Numbers of a rank's part of a field, and parameters, up to which several ranks replay their steps.

A step of so many takes an H100 about as long (7 ms in float32) as its host takes to start the kernels. In a longer one
a replay saves little, and DDP sends gradients while the backward pass still runs.
"""


def numbers_of_step(shape: Architecture, samples: int, grid: int) -> int:
    """Return what :data:`SHORT` bounds: the parameters, or a field of d channels of all samples if that is more."""
    return max(shape.num_parameters, samples * grid * grid * shape.width)


def replays(settings: EngineSettings, ranks: int, device: str, numbers: int | None = None) -> bool:
    """Tell whether steps are recorded and replayed: on GPUs, where nothing asks for what a recording cannot do.

    Pieces of a batch add up their gradients where a replay would overwrite them, and computing layers again is for
    models whose steps are long. One GPU replays every other step, several ranks those that are short by ``numbers``.
    """
    can = settings.kind == "ddp" and device == "cuda" and settings.accumulate == 1 and not settings.recompute
    return settings.replay and can and (ranks == 1 or (numbers is not None and numbers <= SHORT))
