"""Being asked to stop: a signal only sets a flag; the shard under work is finished first."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
"""TERM and USR2 come from schedulers, INT from Ctrl-C."""


class StopSignals:
    """Within its block, the signals of SIGNALS set ``asked``."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self.asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        """Take the signals over; in a thread they cannot come, so there is nothing to do."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
