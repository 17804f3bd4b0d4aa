"""``fmsci doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    folder: Annotated[Path, typer.Option(help="the folder that jobs will write to")] = Path(),
    generate: Annotated[bool, typer.Option("--generate", help="look also at what fmsci generate needs")] = False,
) -> None:
    """Check whether this machine, or the nodes of this job, are fit; say what to do where they are not."""
    from fmsci.cluster.doctor import examine
    from fmsci.terminal import say
    from fmsci.world import detect_world

    world = detect_world()
    checks = examine(world, folder, generate)
    failed = [check for check in checks if check.advice is not None]
    if world.is_main:  # it tells for all
        for check in checks:
            say(f"  {'ok ' if check.advice is None else 'BAD'}  {check.name}: {check.found}")
            if check.advice is not None:
                say(f"       what to do: {check.advice}")
    if failed:
        raise typer.Exit(1)
