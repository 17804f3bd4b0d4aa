"""``fmsci data``: look at a data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at data folders.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def data() -> None:
    """Look at data folders."""


@app.command()
def info(
    folder: Annotated[Path, typer.Argument(metavar="PATH", help="a data folder")],
    json_: Annotated[bool, typer.Option("--json", help="print the manifest as the last line")] = False,
) -> None:
    """Print what a data folder holds: splits, range, and the spread of coefficients and figures."""
    from fmsci.shards import read_manifest
    from fmsci.terminal import say, table

    manifest = read_manifest(folder)
    say(f"{folder}: {manifest.title}, {manifest.grid} x {manifest.grid}, seed {manifest.seed}")
    rows = [
        [split, f"{manifest.splits[split].count:,}", name, *(f"{value:.4g}" for value in (s.min, s.mean, s.max, s.std))]
        for split, statistics in manifest.statistics.items()
        for name, s in statistics.items()
    ]
    table("Samples", ["split", "samples", "figure", "min", "mean", "max", "std"], rows)
    if json_:
        say(manifest.model_dump_json())
