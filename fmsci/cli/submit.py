"""``fmsci submit``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fmsci.cluster.pipeline import Placed
    from fmsci.cluster.submit import Request


NODES_ELSEWHERE = {
    "pipeline": "write nodes.pretrain=4 and the like behind the file, or nodes: in it",
    "scaling": "its points have as many as their ranks fill (world_sizes)",
    "report": "one process writes it",
}


def submit(
    template: Annotated[
        str, typer.Argument(help="generate, pretrain, finetune, evaluate, study, report, scaling, pipeline")
    ],
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="CONFIG [KEY=VALUE]...", help="settings, as for the verb that the job runs"),
    ],
    site: Annotated[str, typer.Option(help="a file of configs/site/, by name, or a path")] = "generic",
    nodes: Annotated[
        str | None, typer.Option(help="nodes (1), or a range such as 2-4 that survives the loss of some")
    ] = None,
    account: Annotated[str | None, typer.Option(help="whom the hours are charged to")] = None,
    time: Annotated[str | None, typer.Option(help="time limit, as 12:00:00")] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="runs of a study, or points of a scaling run, at the same time (4)")
    ] = None,
    chain: Annotated[
        int | None,
        typer.Option(min=1, help="submit so many, one after the other: where none is requeued (a pipeline there: 3)"),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--sbatch", help="one more option for sbatch, as --sbatch=--exclusive")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the job script and what Slurm says of it, submit nothing")
    ] = False,
) -> None:
    """Write a Slurm job script for a site and submit it.

    Prints the job's id, its log, and how to watch it.
    """
    from fmsci.cluster.queue import Queue, queue
    from fmsci.cluster.sharing import ARRAY_FILE, check_alone, check_ended, remember_array
    from fmsci.cluster.submit import Request, log_of, prepare, send, send_chain, verdict
    from fmsci.errors import UserError
    from fmsci.terminal import say

    passed_on = template == "evaluate"  # its options are those of fmsci evaluate
    strange = [word for word in arguments if word.startswith("-") and not passed_on]
    if strange:
        raise UserError(f"there is no option {strange[0]}; see 'fmsci submit --help'")
    if nodes is not None and template in NODES_ELSEWHERE:
        raise UserError(f"--nodes is not for {template}: {NODES_ELSEWHERE[template]}")
    if concurrent is not None and template not in {"study", "scaling"}:
        elsewhere = ": write concurrent=N behind the file" if template == "pipeline" else ", but for study and scaling"
        raise UserError(f"--concurrent is not for {template}{elsewhere}")
    request = Request(
        template, tuple(arguments), site, nodes or "1", account, time, concurrent or 4, tuple(option or ()), chain
    )
    if template == "pipeline":
        _pipeline(request, dry_run)
        return
    if template == "scaling" and arguments:
        from fmsci.cluster.scaling import submit_scaling

        tell(submit_scaling(Path(arguments[0]), arguments[1:], request, dry_run), dry_run)
        return
    prepared = prepare(request)
    if dry_run:
        say(prepared.text)
        say(f"# {verdict(prepared)}")  # a comment: the output is a script still
        return
    record = prepared.folder / ARRAY_FILE
    if prepared.shared is not None:
        known = (queue() or Queue()).submitted
        check_ended(record, known)
        check_alone(prepared.shared, record, known)
    jobs: list[str] = []
    try:
        for job in send_chain(prepared, chain) if chain is not None and chain > 1 else [send(prepared)]:
            jobs.append(job)
            if prepared.shared is not None:
                remember_array(prepared.shared, record, jobs)
    except UserError as error:
        told = f" (of the chain, {', '.join(jobs)} was submitted before)" if jobs else ""
        raise UserError(f"{error}{told}") from None
    log = log_of(prepared.log, jobs[0])
    say(f"job {', '.join(jobs)}: script {prepared.script}, log {log}")
    has_runs = prepared.follows or template == "study"
    where = f"fmsci status {prepared.folder}" if has_runs else f"squeue --job={jobs[0]}"
    say(f"watch it: tail -F {log}   where it is: {where}   end it: scancel {' '.join(jobs)}")


def _pipeline(request: Request, dry_run: bool) -> None:
    from fmsci.cluster.pipeline import submit_pipeline

    tell(submit_pipeline(Path(request.arguments[0]), request.arguments[1:], request, dry_run), dry_run)


def tell(placed: Sequence[Placed], dry_run: bool) -> None:
    """Print what became of each link of a pipeline, a study or a scaling run."""
    from fmsci.terminal import say

    for link in placed:
        if link.script:
            say(f"# ---- {link.name}\n{link.script}")
    for link in placed:
        words = "would be submitted" if dry_run and link.what == "submitted" else link.what
        job = f" as job {' then '.join(link.jobs)}" if link.jobs else ""
        more = f", {link.missing} more of its chain {'would be ' if dry_run else ''}submitted" if link.missing else ""
        after = f", after {', '.join(link.after)}" if link.after else ""
        log = f", log {link.log}" if link.log else ""
        judged = f"; {link.verdict}" if link.verdict else ""
        say(f"{link.name}: {words}{job}{more}{after}{log}{judged}")
    if not dry_run:
        say("where they are: fmsci status. What fails stops what waits for it: mend it, then submit again")
