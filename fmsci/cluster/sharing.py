"""Studies that share a folder of runs: while one has jobs in the queue no other is submitted, both would make the same
runs. Here is also what is remembered of jobs that were submitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fmsci.cluster.queue import Queued, still_queued
from fmsci.config import Open, parse
from fmsci.errors import UserError
from fmsci.files import read_json, write_json

PIPELINES = "pipelines.json"
"""In a folder of runs: the records of the pipelines, and of single arrays, that were submitted for it."""

ARRAY_FILE = "array.json"
"""In the folder of a study: the jobs of its newest array that was submitted alone."""


class SentLink(Open):
    """The jobs of a link of a pipeline, and the log of each."""

    jobs: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()
    chain: int = 1
    """How many jobs the link is to have, one after the other: Slurm may have taken only the first of them."""


class Record(Open):
    """What is remembered of a pipeline, a study, a scaling run or a single array: its links, and their origin."""

    links: dict[str, SentLink]
    study: str | None = None
    scaling: str | None = None
    pipeline: str | None = None
    overrides: tuple[str, ...] = ()
    site: str = "generic"


def read_record(path: Path) -> Record:
    """Return what is remembered of jobs that were submitted. UserError where the file is none of those."""
    return parse(Record, read_json(path), str(path))


def check_alone(shared: Path, record: Path, known: Mapping[str, Queued]) -> None:
    """Raise UserError where others than the jobs of ``record`` are in the queue, for runs in ``shared``."""
    for other in _records(shared):
        if other == record.resolve() or not other.exists():
            continue
        alive = _alive(other, known)
        if alive:
            raise UserError(
                f"jobs of {other.parent} are in the queue and make runs in {shared}, which {record.parent} shares; "
                f"submit this when they have ended (fmsci status tells), or end them: scancel {' '.join(alive)}"
            )


def check_ended(record: Path, known: Mapping[str, Queued]) -> None:
    """Raise UserError where jobs of ``record`` itself, an array that is submitted alone, are in the queue."""
    alive = _alive(record, known) if record.exists() else []
    if alive:
        raise UserError(
            f"the runs of {record.parent} are in the queue already, as job {', '.join(alive)}; submit this when they "
            f"have ended (fmsci status tells), or end them: scancel {' '.join(alive)}"
        )


def _alive(record: Path, known: Mapping[str, Queued]) -> list[str]:
    sent = read_record(record).links.values()
    return still_queued((job for link in sent for job in link.jobs), known)


def remember(shared: Path, record: Path) -> None:
    """Write down that the jobs of ``record`` make runs in ``shared``."""
    known = _records(shared)
    if record.resolve() not in known:
        write_json(shared / PIPELINES, [str(path) for path in (*known, record.resolve())])


def remember_array(shared: Path, record: Path, jobs: Sequence[str]) -> None:
    """Write down the jobs of an array, a chain where there are several, that was submitted alone."""
    remember(shared, record)
    write_json(record, {"links": {"study": {"jobs": list(jobs)}}})


def _records(shared: Path) -> list[Path]:
    path = shared / PIPELINES
    found = read_json(path) if path.exists() else []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise UserError(f"{path} is no list of files; remove it where no job is in the queue that makes runs there")
    return [Path(one) for one in found]
