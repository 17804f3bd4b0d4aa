"""In which portions gradients are reduced, and how far the backward pass is when each portion is ready."""

from __future__ import annotations

from fmsci.config.sections import EngineSettings
from fmsci.engine.traffic import BFLOAT16, FLOAT32
from fmsci.engine.zero_config import LARGEST_BUCKET
from fmsci.model.sizes import Architecture

DDP_BYTES = (1 << 20, 25 << 20)
"""DDP closes its first bucket once it holds so many bytes, and each further one (torch 2.13)."""

Portion = tuple[int, float]
"""Bytes that travel; share of the backward pass after which they are ready."""


def portions(settings: EngineSettings, shape: Architecture) -> list[Portion]:
    """Return the portions of one reduction of all gradients, in the order in which they are ready.

    Gradients come from the head to the lift; each Fourier layer takes an equal share of the backward pass, head and
    lift next to nothing. DeepSpeed's portions of a CPU are all sent at its end.
    """
    d, m = shape.width, shape.modes
    numbers = [(2 * d * d + 4 * d + 1, 0.0)]
    for layer in range(shape.layers):
        numbers += [(count, (layer + 1) / shape.layers) for count in (4 * d * d * m * m, d * d, d)]
    numbers.append(((shape.in_channels + 1) * d, 1.0))
    first, further = DDP_BYTES if settings.kind == "ddp" else (FLOAT32 * LARGEST_BUCKET,) * 2
    found: list[Portion] = []
    held = 0
    for count, ready in numbers:
        held += FLOAT32 * count
        if held >= (further if found else first):
            found.append((held, ready))
            held = 0
    if held:
        found.append((held, 1.0))
    width = BFLOAT16 if settings.compress else FLOAT32
    return [(size * width // FLOAT32, ready) for size, ready in found]


def at_once(settings: EngineSettings, shape: Architecture) -> list[Portion]:
    """Return the one portion of several ranks that replay their steps: all of it, after the backward pass."""
    return [(shape.num_parameters * (BFLOAT16 if settings.compress else FLOAT32), 1.0)]
