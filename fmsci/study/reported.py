"""Whether the report of a study is the last word: it names nothing missing, and no result is newer."""

from __future__ import annotations

from collections.abc import Sequence

from fmsci.config import Open, parse
from fmsci.files import read_json
from fmsci.study.board import valid_errors
from fmsci.study.plan import STAGES, Plan, waits

TABLE = "table.json"
"""What a report writes last."""


class Reported(Open):
    """What is read of it."""

    missing: tuple[str, ...] = ()
    """Names of the jobs without a result."""


def is_reported(planned: Plan, stages: Sequence[str] = STAGES) -> bool:
    """Tell whether the report of a study has all results of these stages, as they are now."""
    table = planned.settings.run / TABLE
    if not table.exists():
        return False
    missing, written = parse(Reported, read_json(table), str(table)).missing, table.stat().st_mtime_ns
    errors = valid_errors(planned) if "repeats" in stages else {}
    if "repeats" in stages and planned.settings.seeds[1:] and any(waits(group, errors) for group in planned.groups):
        return False  # of groups that diverged at every rate none will come
    for job in (job for stage in stages for job in planned.stage(stage, errors) if job is not None):
        if not job.over or job.name in missing:
            return False
        if job.finished and any(path.stat().st_mtime_ns > written for path in job.results):
            return False
    return True
