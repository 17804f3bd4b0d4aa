"""Options that several verbs have in the same words."""

from __future__ import annotations

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="print a machine-readable result as the last line")]

# Those of a verb that is also submitted as Slurm jobs; ``fmsci submit`` has its own words for them.
Site = Annotated[str, typer.Option(help="with submit: a file of configs/site/, by name, or a path")]
Account = Annotated[str | None, typer.Option(help="with submit: whom the hours are charged to")]
Sbatch = Annotated[list[str] | None, typer.Option("--sbatch", help="with submit: one more option for sbatch")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="with submit: tell what would be submitted")]
