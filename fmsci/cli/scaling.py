"""``fmsci scaling``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmsci.cli.options import Account, DryRun, Sbatch, Site

if TYPE_CHECKING:
    from fmsci.config import ScalingSettings

ACTIONS = ("plan", "run", "submit", "report")


def scaling(
    config: Annotated[
        Path, typer.Argument(help="settings, a YAML file; plan alone takes configs/scaling/h100.yaml without")
    ],
    action: Annotated[
        str | None,
        typer.Argument(
            help="plan: the points, and what is to be expected on --nodes; run: measure what is missing, here; "
            "submit: as Slurm jobs; report: tables, curves, the cost model"
        ),
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, on top of the file")] = None,
    point: Annotated[
        int | None, typer.Option(min=0, help="with run: measure this point, on the ranks there are")
    ] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="with run: only the points on so many ranks")] = None,
    nodes: Annotated[str | None, typer.Option(help="with plan: project to so many nodes, as 1..256 or 1,2,16")] = None,
    per_node: Annotated[
        int, typer.Option("--gpus-per-node", min=1, help="with plan: devices, so ranks, of a node")
    ] = 1,
    model: Annotated[str | None, typer.Option(help="with plan --nodes: size of the model; all where not set")] = None,
    precision: Annotated[str | None, typer.Option(help="with plan --nodes: fp32, tf32 or bf16")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="with plan --nodes: samples of all ranks, not of each")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print plan or report as JSON in the last line")] = False,
    site: Site = "generic",
    account: Account = None,
    time: Annotated[str | None, typer.Option(help="with submit: time limit of a point, as 00:10:00")] = None,
    concurrent: Annotated[int, typer.Option(min=1, help="with submit: points of one world size at the same time")] = 1,
    option: Sbatch = None,
    dry_run: DryRun = False,
) -> None:
    """Time training steps on growing numbers of ranks.

    Report what that teaches, and project to numbers that were not measured.
    """
    from fmsci.config import ScalingSettings, load_settings
    from fmsci.errors import SettingsError, UserError, nearest
    from fmsci.terminal import say
    from fmsci.world import detect_world

    words = overrides or []
    if str(config) in ACTIONS and action not in ACTIONS and not config.is_file():
        words = words if action is None else [action, *words]
        config, action = _without_config(str(config)), str(config)
    if action not in ACTIONS:
        named = "" if action is None else f", not '{action}'{nearest(action, ACTIONS)}"
        raise UserError(f"scaling can do {', '.join(ACTIONS)}{named}: fmsci scaling CONFIG ACTION")
    settings = load_settings(ScalingSettings, config, words)
    if point is not None:
        from fmsci.scaling.measure import measure

        if action != "run":
            raise SettingsError("--point goes with run")
        world = detect_world()
        result = measure(settings, point, world)
        if world.is_main:
            say(f"{1e3 * result['step_s']:.3g} ms a step")
        return
    if detect_world(step_needed=action == "run").size > 1:  # the others also in a job's script, or in its shell
        raise SettingsError("scaling starts its own processes: run it as one, or name a --point")
    if action == "plan":
        _plan(settings, nodes, per_node, model, precision, batch, as_json)
    elif action == "submit":
        from fmsci.cli.submit import tell
        from fmsci.cluster.scaling import submit_scaling
        from fmsci.cluster.submit import Request

        request = Request("scaling", (), site, "1", account, time, concurrent, tuple(option or ()))
        tell(submit_scaling(config, words, request, dry_run), dry_run)
    else:
        if action == "run":
            from fmsci.scaling.execute import execute

            execute(settings, config, words, ranks)
        from fmsci.scaling.report import report

        document = report(settings)
        if as_json:
            say(json.dumps(document))


def _without_config(action: str) -> Path:
    """Return the settings that an action without CONFIG takes. Raises UserError where it needs one."""
    from fmsci.errors import UserError
    from fmsci.scaling.floor import SOURCE
    from fmsci.terminal import say

    if action != "plan":
        raise UserError(
            f"scaling {action} needs a CONFIG, such as configs/scaling/laptop.yaml: fmsci scaling CONFIG {action}"
        )
    if not SOURCE.is_file():
        raise UserError(
            f"scaling plan without a CONFIG takes {SOURCE}, which is not in this folder: name a CONFIG, or go to the "
            "folder that holds configs/"
        )
    say(f"settings: {SOURCE}, as no CONFIG is named")
    return SOURCE


def _plan(
    settings: ScalingSettings,
    nodes: str | None,
    per_node: int,
    model: str | None,
    precision: str | None,
    batch: int | None,
    as_json: bool,
) -> None:
    from fmsci.scaling.points import plan, result_path
    from fmsci.terminal import say, table

    if nodes is not None:
        from fmsci.scaling.project import project, tell

        found = project(settings, nodes, per_node, model, precision, batch)
        tell(found)
        if as_json:
            say(json.dumps(found.document()))
        return
    points = plan(settings)
    rows = []
    for number, point in enumerate(points):
        measured = "measured" if result_path(settings.run, point).exists() else "missing"
        how = f"{point.engine} {point.how.precision}"
        rows.append((str(number), point.model, how, str(point.world_size), str(point.batch), measured))
    table(f"{settings.run}: {len(points)} points", ("point", "model", "engine", "ranks", "batch", "result"), rows)
    left = sum(row[-1] == "missing" for row in rows)
    steps = left * (settings.warmup + 2 * settings.repeats * settings.steps)
    say(f"{left} points are missing, {steps:,} steps; next: fmsci scaling CONFIG run, or submit")
    if as_json:
        listed = [
            {"number": number, "name": point.name, "measured": result_path(settings.run, point).exists()}
            | point.facts()
            for number, point in enumerate(points)
        ]
        say(json.dumps({"run": str(settings.run), "points": listed}))
