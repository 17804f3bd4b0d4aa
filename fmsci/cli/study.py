"""``fmsci study``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmsci.cli.options import Account, DryRun, Sbatch, Site

if TYPE_CHECKING:
    from fmsci.config import StudySettings

ACTIONS = ("plan", "run", "submit", "report")
COUNTED = ("jobs", "finished", "steps", "samples_seen")


def study(
    config: Annotated[Path, typer.Argument(help="settings, a YAML file such as configs/study/quickstart.yaml")],
    action: Annotated[
        str,
        typer.Argument(
            help="plan: what it takes; run: make what is missing, here; submit: as Slurm jobs; report: tables, curves"
        ),
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, on top of the file")] = None,
    stage: Annotated[
        str | None, typer.Option(help="with run: only data, pretrain, zero-shot, sweep or repeats")
    ] = None,
    arguments_of: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="with plan and --stage: print what fmsci needs for job N, a word a line"),
    ] = None,
    first: Annotated[
        int, typer.Option(metavar="N", min=0, help="with --arguments-of: number from job N on, as later arrays do")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print plan or table as JSON in the last line")] = False,
    site: Site = "generic",
    nodes: Annotated[str, typer.Option(help="with submit: nodes of each pretraining")] = "1",
    account: Account = None,
    time: Annotated[str | None, typer.Option(help="with submit: time limit of a job, as 12:00:00")] = None,
    concurrent: Annotated[int, typer.Option(min=1, help="with submit: runs of a stage at the same time")] = 4,
    option: Sbatch = None,
    dry_run: DryRun = False,
    also: Annotated[
        list[Path] | None,
        typer.Option(metavar="CONFIG", help="with run and report: one more study, whose jobs start after those before"),
    ] = None,
) -> None:
    """Answer a question of the paper: plan runs, make them, report.

    What is there already is not made again.
    """
    from fmsci.errors import SettingsError, UserError, nearest
    from fmsci.terminal import say, warn
    from fmsci.world import detect_world

    if action not in ACTIONS:
        raise UserError(f"study can do {', '.join(ACTIONS)}, not '{action}'{nearest(action, ACTIONS)}")
    if also and action not in {"run", "report"}:
        raise UserError(f"--also goes with run and report, not with {action}")
    if detect_world(step_needed=action == "run").size > 1:  # the others also in a job's script, or in its shell
        raise SettingsError("a study starts processes of its own: run it as one, without mpiexec, srun or torchrun")
    from fmsci.study.plan import STAGES
    from fmsci.study.several import load_studies

    studies = load_studies([config, *(also or [])], overrides or [])
    settings = studies[0]
    if stage is not None and stage not in STAGES:
        raise UserError(f"there is no stage '{stage}'{nearest(stage, STAGES)}; there is {', '.join(STAGES)}")
    if action == "plan":
        if arguments_of is not None:
            say("\n".join(_words(settings, stage or "sweep", first + arguments_of)))
        else:
            _plan(settings, as_json)
        return
    if action == "submit":
        from fmsci.cli.submit import tell
        from fmsci.cluster.study import submit_study
        from fmsci.cluster.submit import Request

        request = Request("study", (), site, nodes, account, time, concurrent, tuple(option or ()))
        tell(submit_study(config, overrides or [], request, dry_run), dry_run)
        return
    if action == "run":
        from fmsci.study.execute import execute

        execute(studies, stage)
        if stage is not None:
            return
    from fmsci.study.report import expectation, report

    missed = None
    for one in studies:
        try:
            document = report(one)
        except UserError as error:
            if len(studies) == 1:
                raise
            warn(str(error))  # the others may have something to show
            continue
        if as_json:
            say(json.dumps(document))
        found = expectation(one, document)
        if found is not None:
            say(f"not as expected: {found}")
        missed = missed or found
    if missed is not None:
        raise typer.Exit(1)


def _words(settings: StudySettings, stage: str, number: int) -> tuple[str, ...]:
    """Return the words behind ``fmsci`` of job ``number`` of a stage."""
    from fmsci.errors import UserError
    from fmsci.study.board import diverged, errors_of
    from fmsci.study.plan import group_of, hopeless, plan

    planned = plan(settings)
    count = planned.count(stage)
    if number >= count:
        raise UserError(f"there is no job {number}: {stage} of {settings.run} has {count}, from 0")
    group = group_of(planned, number) if stage == "repeats" else None
    errors = {} if group is None else errors_of(group.sweep)
    job = planned.job(stage, number, errors)
    if job is None:
        assert group is not None, "only repeats are unknown"
        if hopeless(group, errors):
            raise UserError(f"repeat {number} of {settings.run} never comes: {diverged(group)}")
        raise UserError(f"repeat {number} of {settings.run} waits for the sweep, which chooses its learning rate")
    return job.words


def _plan(settings: StudySettings, as_json: bool) -> None:
    from dataclasses import asdict

    from fmsci.study.board import valid_errors
    from fmsci.study.cost import cost
    from fmsci.study.plan import STAGES, plan
    from fmsci.terminal import amount, duration, say, table

    planned = plan(settings)
    taken = cost(planned)
    rows = [
        (
            one.stage,
            *(f"{getattr(one, name):,}" for name in COUNTED),
            *(duration(3600 * hours) for hours in (one.hours, one.hours_left)),
        )
        for one in taken.stages
    ]
    sums = [f"{sum(getattr(one, name) for one in taken.stages):,}" for name in COUNTED]
    rows.append(("all", *sums, duration(3600 * taken.hours), duration(3600 * taken.hours_left)))
    columns = ("stage", "jobs", "finished", "steps", "samples seen", "time here", "left")
    table(f"{settings.run}: {taken.workers} at a time on {taken.device}", columns, rows)
    gpu = "" if taken.gpu_hours is None else f"{taken.gpu_hours:.1f} GPU-hours; "
    measured = f"steps measured alone, kept in {settings.run / 'throughput.json'} (remove it to measure anew)"
    say(f"{gpu}{amount(taken.disk_bytes)} of disk; times are those of {measured}")
    for folder in settings.tasks.values():
        if not planned.folders.knows(folder):
            say(f"not there yet: {folder}, which this study does not make (data.configs)")
    if as_json:
        errors = valid_errors(planned)
        jobs = [
            {"stage": stage, "number": number, "name": None, "finished": False}
            if job is None
            else {"stage": stage, "number": number, "name": job.name, "finished": job.over}
            for stage in STAGES
            for number, job in enumerate(planned.stage(stage, errors))
        ]
        say(json.dumps(asdict(taken) | {"hours": taken.hours, "jobs": jobs}))
