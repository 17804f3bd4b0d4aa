"""A whole study as jobs that wait for one another: data, pretraining, zero-shot, sweep, repeats, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fmsci.cluster.arguments import ARRAY_JOBS, FIRST, STAGE, part_of
from fmsci.cluster.pipeline import Link, Placed, submit_links
from fmsci.cluster.run_folders import PIPELINE_FILE
from fmsci.cluster.submit import Request
from fmsci.config import StudySettings, load_settings
from fmsci.dataset.order import share
from fmsci.study.board import jobs_left
from fmsci.study.plan import plan
from fmsci.study.reported import is_reported

AFTER = {
    "pretrain": ("data",),
    "zero-shot": ("data", "pretrain"),
    "sweep": ("data", "pretrain"),
    "repeats": ("data", "pretrain", "sweep"),
}
"""What each stage waits for. Which rates the repeats take is known when the sweep is; how many there are, before."""


def study_links(config: Path, overrides: Sequence[str], base: Request) -> list[Link]:
    """Return the links of a study, each after those that it waits for. Stages without jobs are left out.

    ``base.nodes`` are those of each pretraining; every other job has one node.
    """
    settings = load_settings(StudySettings, config, overrides)
    planned = plan(settings)
    links = [
        Link(
            f"generate {job.name}", replace(base, template="generate", arguments=job.words[1:], nodes="1"), (), job.over
        )
        for job in planned.data
    ]
    names: dict[str, tuple[str, ...]] = {"data": tuple(link.name for link in links)}
    for stage, before in AFTER.items():
        firsts = range(0, planned.count(stage), ARRAY_JOBS)
        left = jobs_left(planned, stage)
        awaited = tuple(name for one in before for name in names.get(one, ()))
        for part, first in enumerate(firsts):
            words = (str(config), *overrides, STAGE + stage, *([f"{FIRST}{first}"] if len(firsts) > 1 else []))
            nodes = base.nodes if stage == "pretrain" else "1"
            at_once = range(base.concurrent)[share(base.concurrent, len(firsts), part)]
            request = replace(base, template="study", arguments=words, nodes=nodes, concurrent=max(1, len(at_once)))
            name = f"{stage} from {first}" if first else stage
            links.append(Link(name, request, awaited, not part_of(left, first)))
            names[stage] = (*names.get(stage, ()), name)
    report = replace(base, template="report", arguments=(str(config), *overrides), nodes="1")
    awaited = tuple(name for stage in ("zero-shot", "sweep", "repeats") for name in names.get(stage, ()))
    links.append(Link("report", report, awaited, is_reported(planned), summary=True))
    return links


def submit_study(config: Path, overrides: Sequence[str], base: Request, dry_run: bool = False) -> list[Placed]:
    """Submit what is missing of a study and is not in the queue; return what became of each link.

    Raises UserError for a mistake in any of them before the first is submitted.
    """
    settings = load_settings(StudySettings, config, overrides)
    source = {"study": str(config), "overrides": list(overrides)}
    record, shared = settings.run / PIPELINE_FILE, settings.runs_folder
    return submit_links(study_links(config, overrides, base), record, source, dry_run, shared)
