"""How the program ends: a user's mistake is one sentence, a saved run asks to be requeued."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_MISTAKE = 2
"""Exit code of a user's mistake: one sentence on stderr, nothing lost."""

EXIT_FAILURE = 1
"""Exit code of a job that failed though nobody made a mistake: a lost rank, a broken connection."""

EXIT_REQUEUE = 75
"""Exit code of a job that saved its state and wants to be started again (EX_TEMPFAIL)."""


class UserError(Exception):
    """A mistake that the user can mend: the message is one sentence saying what, where and what to do."""


class ArgumentError(UserError, ValueError):
    """A wrong argument of a function of the library, in one sentence; it is a ValueError too, as callers expect."""


class SettingsError(UserError):
    """A mistake in settings that could be read: every rank finds the same one, so rank 0 tells it."""


class Failure(Exception):  # noqa: N818 - the word of the exit codes
    """The job failed though nobody made a mistake: one sentence, no traceback."""


class Lost(Failure):
    """Ranks do not answer any more, and none of them has said why: a process was killed, or its node is gone."""


class Interrupted(Exception):  # noqa: N818 - not an error: what was finished is kept
    """The work was asked to stop, has saved what it had, and continues when it is started again."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return `` (did you mean 'NAME'?)`` for the allowed name closest to ``given``, or an empty string."""
    close = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
