"""Studies that share a folder of runs: while one has jobs in the queue no other is submitted, both would make the same
runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fmsci.cluster.queue import Queued
from fmsci.errors import UserError
from fmsci.files import read_json, write_json

PIPELINES = "pipelines.json"
"""In a folder of runs: the records of the pipelines that were submitted for it."""


def check_alone(shared: Path, record: Path, known: Mapping[str, Queued]) -> None:
    """Raise UserError where another pipeline than that of ``record`` has jobs in the queue, for runs in ``shared``."""
    for other in map(Path, _records(shared)):
        if other == record.resolve() or not other.exists():
            continue
        links = read_json(other)["links"]
        alive = [job for link in links.values() for job in link["jobs"] if job in known and known[job].alive]
        if alive:
            raise UserError(
                f"jobs of {other.parent} are in the queue and make runs in {shared}, which {record.parent} shares; "
                f"submit this when they have ended (fmsci status tells), or end them: scancel {' '.join(alive)}"
            )


def remember(shared: Path, record: Path) -> None:
    """Write down that the pipeline of ``record`` makes runs in ``shared``."""
    known = _records(shared)
    if str(record.resolve()) not in known:
        write_json(shared / PIPELINES, [*known, str(record.resolve())])


def _records(shared: Path) -> list[str]:
    path = shared / PIPELINES
    found: list[str] = read_json(path) if path.exists() else []
    return found
