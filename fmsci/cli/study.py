"""``fmsci study``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

ACTIONS = ("plan", "run", "report")


def study(
    config: Annotated[Path, typer.Argument(help="settings, a YAML file such as configs/study/quickstart.yaml")],
    action: Annotated[str, typer.Argument(help="plan: list the runs; run: make the missing ones; report: table, plot")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, on top of the file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the table as JSON in the last line")] = False,
) -> None:
    """Answer a question of the paper: plan its runs, make those that are missing, report."""
    from fmsci.config import StudySettings, load_settings
    from fmsci.errors import SettingsError, UserError, nearest
    from fmsci.terminal import say, table
    from fmsci.world import detect_world

    if action not in ACTIONS:
        raise UserError(f"study can do {', '.join(ACTIONS)}, not '{action}'{nearest(action, ACTIONS)}")
    settings = load_settings(StudySettings, config, overrides or [])
    if detect_world().size > 1:
        raise SettingsError("a study starts processes of its own: run it as one, without mpiexec, srun or torchrun")
    from fmsci.study.execute import execute, finished
    from fmsci.study.plan import plan

    if action == "plan":
        rows = [
            (run.folder.name, run.arm, str(run.samples), "yes" if finished(run) else "no") for run in plan(settings)
        ]
        table(f"runs of {settings.run}", ("run", "arm", "samples", "finished"), rows)
        return
    if action == "run":
        execute(settings)
    from fmsci.study.report import expectation, report

    document = report(settings)
    if as_json:
        say(json.dumps(document))
    missed = expectation(settings, document)
    if missed is not None:
        say(f"not as expected: {missed}")
        raise typer.Exit(1)
