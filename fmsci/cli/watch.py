"""``fmsci watch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def watch(
    run: Annotated[Path, typer.Argument(help="a run folder")],
    once: Annotated[bool, typer.Option("--once", help="print it once and end, as for a log; so does a pipe")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two looks")] = 2.0,
) -> None:
    """Watch a run: curves, rate, time left, ranks.

    From its files, so over ssh too. Ctrl-C leaves it running.
    """
    from fmsci.cluster.watch import Watched
    from fmsci.terminal import lines, live

    watched = Watched(run)
    if once:
        lines(watched.view)
        return

    def more() -> bool:
        watched.look()
        return not watched.over

    live(watched.view, more, every)
