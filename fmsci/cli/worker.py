"""``fmsci worker``: several commands one after the other in one process, so that Python and torch start once.

A study starts such processes. Each line on stdin is a JSON document with ``words``, the arguments of a command, and
``log``, the file that what it prints is added to; the answer is a line on stdout with its exit ``code``. The process
ends when there is no more to read, when it was asked to stop, and after an error that nobody foresaw.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

from fmsci.world import StopSignals, ignore_signals


def worker() -> None:
    """Run the commands that come on stdin, one after the other (for fmsci study)."""
    from fmsci.cli import main
    from fmsci.engine.device import flush_small_numbers
    from fmsci.errors import EXIT_REQUEUE

    flush_small_numbers()  # before a command that does not train starts threads for those that do
    signals = StopSignals()
    signals.take()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        while not signals.asked and (line := sys.stdin.readline()):
            asked = json.loads(line)
            _print_to(Path(asked["log"]))
            try:
                main(asked["words"])
            except SystemExit as end:
                code = int(end.code or 0)
            _free_memory()
            signals.take()  # a command may have taken them over
            answers.write(json.dumps({"code": code}) + "\n")
            answers.flush()
            if code == EXIT_REQUEUE:
                break
    ignore_signals()


def _free_memory() -> None:
    """Let go of what the command had, on a GPU too: recorded steps keep memory of their own there."""
    gc.collect()
    if "torch" in sys.modules:
        from fmsci.engine.device import free_memory

        free_memory()


def _print_to(log: Path) -> None:
    """Let stdout and stderr of this process go to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
