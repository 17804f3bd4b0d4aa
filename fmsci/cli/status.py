"""``fmsci status``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def status(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="run folders, or folders of them; runs/ if none is given"),
    ] = None,
    path: Annotated[
        bool, typer.Option("--path", help="instead: print the folder of CONFIG [KEY=VALUE]..., as job scripts do")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON in the last line")] = False,
) -> None:
    """Tell where runs are: queue, step, error, speed, time left. Works with and without Slurm."""
    from fmsci.cluster.run_folders import find_pipelines, find_runs, folder_of, was_submitted
    from fmsci.cluster.status import COLUMNS, describe, run_status
    from fmsci.errors import UserError
    from fmsci.terminal import say, table, warn

    words = arguments or []
    if path:
        if not words:
            raise UserError("--path needs a settings file: fmsci status --path CONFIG [KEY=VALUE]...")
        # Job scripts hand on all that follows them: what begins with a dash is for another verb.
        say(str(folder_of(Path(words[0]), [word for word in words[1:] if not word.startswith("-")])))
        return
    options = [word for word in words if word.startswith("-")]
    if options:
        raise UserError(f"there is no option {options[0]}; see 'fmsci status --help'")
    from fmsci.cluster.queue import Queue, queue

    folders = [Path(word) for word in words] or [Path("runs")]
    runs, records = find_runs(folders), find_pipelines(folders)
    jobs = None
    if records or any(was_submitted(run) for run in runs):
        try:
            jobs = queue()
        except UserError as error:
            warn(f"{error}; telling what the run folders say")
    found = [run_status(run, (jobs or Queue()).tasks) for run in runs]
    if found:
        table("runs", COLUMNS, [describe(one) for one in found])
    for one in found:
        if one.why and one.state not in {"finished", "RUNNING"}:
            say(f"{one.run}: {one.state}: {one.why}")
    pipelines = {}
    for record in records:
        from fmsci.cluster.pipeline_status import pipeline_status

        try:
            pipelines[str(record)] = pipeline_status(record, None if jobs is None else jobs.submitted)
        except UserError as error:
            warn(f"{record}: {error}")
            continue
        say(f"pipeline of {record.parent}")
        for link in pipelines[str(record)]:
            why = f": {link.why}" if link.why else ""
            say(f"  {link.link}: {link.state}{why}")
    if as_json:
        links = {record: [asdict(link) for link in told] for record, told in pipelines.items()}
        say(json.dumps({"runs": [asdict(one) for one in found], "pipelines": links}))
