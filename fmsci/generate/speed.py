"""How fast this machine makes samples, measured: a few real ones."""

from __future__ import annotations

import time

from fmsci.config import GenerateSettings
from fmsci.generate.draws import Stream
from fmsci.generate.samples import SampleMaker
from fmsci.pde import SYSTEMS

MADE = 64
"""Samples that are timed, after as many that warm up."""


def seconds_per_sample(settings: GenerateSettings) -> float:
    """Return what one process takes for a sample: drawn, solved and checked (a third more with its file)."""
    stream = Stream(settings.seed, settings.system, settings.range, "train")
    maker = SampleMaker(SYSTEMS[settings.system], stream, settings.grid, settings.options)
    took = 0.0
    for first in (0, MADE):
        begun = time.perf_counter()
        for _ in maker.make(first, MADE):
            pass
        took = time.perf_counter() - begun
    return took / MADE
