"""Being asked to stop: a signal sets a flag, all ranks agree on it at a step boundary, the run saves, exits with 75."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

import torch

from fmsci.engine.collective import total

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
"""TERM and USR2 come from schedulers, INT from Ctrl-C. A second one changes nothing: the save goes on."""


class Preempt:
    """Holds what this rank was asked for, and asks the others, once a step, in one small sum."""

    def __init__(self, save_every_minutes: float | None, device: torch.device) -> None:
        self._asked = False
        self._device = device
        self._every_s = None if save_every_minutes is None else 60.0 * save_every_minutes
        self._saved = time.monotonic()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Preempt:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def poll(self) -> tuple[bool, bool]:
        """Return (stop, save), the same on every rank. Collective."""
        late = self._every_s is not None and time.monotonic() - self._saved >= self._every_s
        stop, save = total([float(self._asked), float(late)], self._device)
        return stop > 0, save > 0

    def saved(self) -> None:
        """Start the clock of the next timed checkpoint."""
        self._saved = time.monotonic()
