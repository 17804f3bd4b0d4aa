"""``fmsci generate``: make a data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmsci.cli.options import AsJson


def generate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="a YAML file of settings, and settings on top of it"),
    ] = None,
    system: Annotated[str | None, typer.Option(help="poisson, advection_diffusion or helmholtz")] = None,
    range_: Annotated[
        tuple[float, float] | None, typer.Option("--range", help="range of its varied coefficient: LO HI")
    ] = None,
    grid: Annotated[int | None, typer.Option(help="points along each side")] = None,
    train: Annotated[int | None, typer.Option(help="training samples")] = None,
    valid: Annotated[int | None, typer.Option(help="validation samples")] = None,
    test: Annotated[int | None, typer.Option(help="test samples")] = None,
    seed: Annotated[int | None, typer.Option(help="another seed, other samples")] = None,
    output: Annotated[Path | None, typer.Option(help="the data folder to write")] = None,
    path: Annotated[bool, typer.Option("--path", help="instead: print the data folder, as job scripts do")] = False,
    json_: AsJson = False,
) -> None:
    """Make data for training, on any number of MPI ranks.

    Training, validation and test samples: mpiexec -n 4 fmsci generate CONFIG.

    Start the same command again after an interruption: what is finished stays. The data do not depend on the number
    of ranks.
    """
    import json

    from fmsci.world import detect_world, one_numpy_thread

    one_numpy_thread()
    from fmsci.config import GenerateSettings, load_settings
    from fmsci.terminal import say

    config, overrides = split_arguments(arguments or [])
    given = {"system": system, "range": range_, "grid": grid, "train": train, "valid": valid, "test": test}
    given |= {"seed": seed, "output": None if output is None else str(output)}
    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    settings = load_settings(GenerateSettings, config, [*options, *overrides])
    if path:
        say(str(settings.output))
        return
    from fmsci.generate import generate as make_data

    world = detect_world()
    manifest = make_data(settings, world)
    if world.rank != 0:
        return
    counts = ", ".join(f"{record.count:,} {split}" for split, record in manifest.splits.items())
    worst = max(statistics["residual"].max for statistics in manifest.statistics.values())
    say(
        f"{settings.output}: {manifest.title}, {counts} samples of {manifest.grid} x {manifest.grid}; "
        f"residual at most {worst:.1e}"
    )
    if json_:
        records = {split: record.count for split, record in manifest.splits.items()}
        say(
            json.dumps(
                {"output": str(settings.output), "system": manifest.system, "samples": records, "residual": worst}
            )
        )


def split_arguments(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Return the settings file, if the first argument is one, and the ``key=value`` overrides."""
    if arguments and "=" not in arguments[0]:
        return Path(arguments[0]), arguments[1:]
    return None, arguments
