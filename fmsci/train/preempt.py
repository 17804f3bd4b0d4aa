"""When to save and when to stop: every rank tells what it knows, all act on the same sum at the same step boundary."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from fmsci.config.sections import CheckpointSettings
from fmsci.engine.collective import Agreement
from fmsci.files import discard
from fmsci.world import StopSignals, World, job_end_time

STOP_FILE = "STOP"
"""A file of this name in the run folder asks the run to save and stop; it is removed when it has."""

LOOK_S = 1.0
"""Seconds between two looks for that file: a shared file system answers slowly."""


class StopAsked(Exception):  # noqa: N818 - not an error, and only for the loop
    """All ranks know that they are to stop."""


class Preempt:
    """Holds what this rank was asked for and knows of the time, and exchanges it with the others, once a step.

    The answer is the one to what was asked a step before (a process alone has it at once): no device waits for it.
    """

    def __init__(
        self,
        run: Path,
        world: World,
        signals: StopSignals,
        agreement: Agreement,
        *,
        deadline: float | None = None,
        every_minutes: float | None = None,
        failed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._run, self._world, self._signals, self._agreement, self._failed = run, world, signals, agreement, failed
        self._every_s = None if every_minutes is None else 60.0 * every_minutes
        self._saved = self._looked = time.monotonic()
        self._deadline = deadline
        self._file = False
        self._answer_is_old = False
        self.why: str | None = None
        """What asked the run to stop, once all ranks know."""
        self.save = False
        """Whether it is time for a checkpoint, as far as all ranks know."""
        self.broken = False
        """Whether rank 0 could not write something."""

    def poll(self) -> bool:
        """Tell whether to stop, the same on every rank. Collective."""
        now = time.monotonic()
        if self._world.is_main and now - self._looked >= LOOK_S:
            self._looked = now
            self._file = (self._run / STOP_FILE).exists()
        late = self._every_s is not None and now - self._saved >= self._every_s
        over = self._deadline is not None and now >= self._deadline
        asked = (self._signals.asked, over, self._file, late, self._failed())
        signal, over_all, file, late_all, failed = self._agreement.exchange([float(value) for value in asked])
        self.save, self.broken = late_all > 0 and not self._answer_is_old, failed > 0
        self._answer_is_old = False
        for name, value in (("a signal", signal), ("the deadline", over_all), (f"the file {STOP_FILE}", file)):
            if value > 0:
                self.why = name
        return self.why is not None

    def check(self) -> None:
        """Raise StopAsked where the ranks are to stop. Collective; for the inside of a validation."""
        if self.poll():
            raise StopAsked

    def saved(self) -> None:
        """Start the clock of the next timed checkpoint. Every rank calls it at the same step."""
        self._saved = time.monotonic()
        self._answer_is_old = self._agreement.delayed  # what is under way was asked before

    def stopped(self) -> None:
        """Forget what has been obeyed, so that the next start trains."""
        self._agreement.close()
        if self._world.is_main:
            discard(self._run / STOP_FILE)


def find_deadline(settings: CheckpointSettings) -> float | None:
    """Return the monotonic time to stop at: so long after now, the start, or so long before the job's end."""
    now = time.monotonic()
    ends = [] if settings.deadline_minutes is None else [now + 60.0 * settings.deadline_minutes]
    job_end = job_end_time()
    if job_end is not None:
        left = job_end - time.time()
        ends.append(now + left - min(60.0 * settings.margin_minutes, 0.1 * left))
    return min(ends, default=None)
