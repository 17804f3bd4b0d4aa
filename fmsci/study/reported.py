"""Whether the report of a study is the last word: it names nothing missing, and no result is newer."""

from __future__ import annotations

from collections.abc import Sequence

from fmsci.files import read_json
from fmsci.study.board import valid_errors
from fmsci.study.plan import STAGES, Plan

TABLE = "table.json"
"""What a report writes last."""


def is_reported(planned: Plan, stages: Sequence[str] = STAGES) -> bool:
    """Tell whether the report of a study has all results of these stages, as they are now."""
    table = planned.settings.run / TABLE
    if not table.exists():
        return False
    missing, written = set(read_json(table).get("missing", [])), table.stat().st_mtime_ns
    errors = valid_errors(planned) if "repeats" in stages else {}
    for job in (job for stage in stages for job in planned.stage(stage, errors)):
        if job is None or not job.over or job.name in missing:
            return False
        if job.finished and any(path.stat().st_mtime_ns > written for path in job.results):
            return False
    return True
