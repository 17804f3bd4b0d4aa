"""``fmsci doctor``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def doctor(
    folder: Annotated[Path, typer.Option(help="the folder that jobs will write to")] = Path(),
    generate: Annotated[bool, typer.Option("--generate", help="look also at what fmsci generate needs")] = False,
) -> None:
    """Check whether this machine, or the nodes of a job, are fit.

    Says what to do where they are not.
    """
    from fmsci.cluster.doctor import bounded, examine, limit_s
    from fmsci.terminal import say
    from fmsci.world import detect_world

    world = detect_world()
    limit = limit_s(world)

    def give_up(under_way: str) -> None:
        say(f"  BAD  {under_way}: no end after {limit:.0f} s, rank {world.rank} on {world.host}")
        say("       what to do: leave out a node that alone says so (sbatch --exclude); else tell the site what hangs")
        os._exit(1)  # what hangs in the kernel would keep an orderly end waiting

    with bounded(limit, give_up) as doing:
        checks = examine(world, folder, generate, doing)
    failed = [check for check in checks if check.advice is not None]
    if world.is_main:  # it tells for all
        for check in checks:
            say(f"  {'ok ' if check.advice is None else 'BAD'}  {check.name}: {check.found}")
            if check.advice is not None:
                say(f"       what to do: {check.advice}")
    if failed:
        raise typer.Exit(1)
