"""Scaling runs as jobs: an array for each number of ranks, and the report when all are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fmsci.cluster.arguments import RANKS, missing_points
from fmsci.cluster.pipeline import Link, Placed, submit_links
from fmsci.cluster.run_folders import PIPELINE_FILE
from fmsci.cluster.submit import Request, load_site, nodes_for
from fmsci.config import ScalingSettings, load_settings
from fmsci.scaling.points import report_path


def scaling_links(config: Path, overrides: Sequence[str], base: Request) -> list[Link]:
    """Return the links of a scaling run, those on few ranks first, and the report, which waits for all.

    Raises UserError where a number of ranks does not fill the nodes of the site.
    """
    settings = load_settings(ScalingSettings, config, overrides)
    site = load_site(base.site)
    words = (str(config), *overrides)
    links = []
    for ranks in sorted(settings.world_sizes):
        nodes_for(ranks, site, base.site)
        request = replace(base, template="scaling", arguments=(*words, f"{RANKS}{ranks}"))
        links.append(Link(f"{ranks} ranks", request, (), not missing_points(request.arguments)))
    report = replace(base, template="scaling", arguments=words)
    done = report_path(settings.run).exists()
    links.append(Link("report", report, tuple(link.name for link in links), done, summary=True))
    return links


def submit_scaling(config: Path, overrides: Sequence[str], base: Request, dry_run: bool = False) -> list[Placed]:
    """Submit the points that are missing and are not in the queue; return what became of each link.

    Raises UserError for a mistake in any of them before the first is submitted.
    """
    record = load_settings(ScalingSettings, config, overrides).run / PIPELINE_FILE
    source = {"scaling": str(config), "overrides": list(overrides), "site": base.site}
    return submit_links(scaling_links(config, overrides, base), record, source, dry_run)
