"""Signals that ask a run or a generation to stop. No torch here: they are taken over before that import, which takes
seconds."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
"""TERM and USR2 come from schedulers, INT from Ctrl-C. A second one changes nothing: what is under way goes on."""


class StopSignals:
    """Within its block, or for good from ``take`` on, the signals of SIGNALS only set ``asked``."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self.take()
        return self

    def take(self) -> None:
        """Take the signals over, with what has come already; in a thread they cannot come: there is nothing to do."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.signal(number, self._ask)
                owner = getattr(before, "__self__", None)
                if isinstance(owner, StopSignals):
                    self.asked |= owner.asked  # meant for the process, whoever listened
                if owner is not self:
                    self._previous[number] = before

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def ignore_signals() -> None:
    """Ignore the signals of SIGNALS until the process has ended: as Python ends, it would let them kill it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
