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
    arguments_of: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="with plan: print what fmsci train needs for run N, one word a line"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print plan or table as JSON in the last line")] = False,
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
        runs = plan(settings)
        if arguments_of is not None:
            if arguments_of >= len(runs):
                raise UserError(f"there is no run {arguments_of}: {settings.run} has the runs 0 to {len(runs) - 1}")
            say("\n".join([str(settings.train), *runs[arguments_of].overrides]))
            return
        rows = [
            (str(number), run.folder.name, run.arm, str(run.samples), "yes" if finished(run) else "no")
            for number, run in enumerate(runs)
        ]
        table(f"runs of {settings.run}", ("number", "run", "arm", "samples", "finished"), rows)
        if as_json:
            facts = [
                {"run": str(run.folder), "arm": run.arm, "samples": run.samples, "steps": run.steps} for run in runs
            ]
            say(json.dumps([fact | {"finished": finished(run)} for fact, run in zip(facts, runs, strict=True)]))
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
