"""What became of a pipeline's links: in the queue, finished, failed, or cancelled since one before them failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fmsci.cluster.pipeline import Link, links
from fmsci.cluster.queue import Queued, still_queued
from fmsci.cluster.scaling import scaling_links
from fmsci.cluster.sharing import Record, SentLink, read_record
from fmsci.cluster.study import study_links
from fmsci.cluster.submit import Request
from fmsci.config import PipelineSettings, load_settings
from fmsci.errors import UserError
from fmsci.terminal import warnings_in

BROKEN = {"failed", "cancelled"}


@dataclass(frozen=True)
class LinkStatus:
    """Where one link is; ``state`` is finished, failed, cancelled, not submitted, unknown; or Slurm's in capitals."""

    link: str
    state: str
    why: str | None = None
    jobs: tuple[str, ...] = ()


def pipeline_status(record: Path, known: Mapping[str, Queued] | None) -> list[LinkStatus]:
    """Return where each link of a recorded pipeline is; ``known`` are the jobs in the queue, as sbatch took them.

    None where the queue could not be asked: what was submitted and has no result may wait, run or have failed.

    Slurm forgets a job some minutes after its end: then the results, the logs and what came before tell.
    Raises UserError where the pipeline's configuration cannot be read any more.
    """
    document = read_record(record)
    told: dict[str, LinkStatus] = {}
    for link in _links(document, record):
        told[link.name] = _status(link, document.links.get(link.name, SentLink()), told, known)
    return list(told.values())


def _links(document: Record, record: Path) -> list[Link]:
    if document.study is not None:
        return study_links(Path(document.study), document.overrides, Request("study", ()))
    if document.scaling is not None:
        request = Request("scaling", (), document.site)
        return scaling_links(Path(document.scaling), document.overrides, request)
    if document.pipeline is None:
        raise UserError(f"{record} names no study, scaling run or pipeline")
    settings = load_settings(PipelineSettings, Path(document.pipeline), document.overrides)
    return links(settings, Request("pipeline", ()))


def _status(
    link: Link, sent: SentLink, told: Mapping[str, LinkStatus], queued: Mapping[str, Queued] | None
) -> LinkStatus:
    jobs, known = sent.jobs, queued or {}
    alive = [known[job] for job in still_queued(jobs, known)]
    waits = [name for name in link.after if told[name].state != "finished"]
    broken = [name for name in waits if told[name].state in BROKEN]
    if alive:
        waiting = alive[0].reason == "Dependency" and waits
        why = f"waits for {', '.join(waits)}" if waiting else alive[0].reason
        return LinkStatus(link.name, alive[0].state, None if why == "None" else why, jobs)
    if link.finished and not (link.summary and waits):
        return LinkStatus(link.name, "finished", None, jobs)
    if not jobs:
        return LinkStatus(link.name, "not submitted")
    if queued is None:
        return LinkStatus(link.name, "unknown", "the queue could not be asked", jobs)
    if broken:
        return LinkStatus(link.name, "cancelled", f"{broken[0]} {told[broken[0]].state}", jobs)
    if jobs[-1] in known and known[jobs[-1]].state == "CANCELLED":
        return LinkStatus(link.name, "cancelled", "by scancel", jobs)
    return LinkStatus(link.name, "failed", _last_words(sent.logs), jobs)


def _last_words(logs: Sequence[str]) -> str | None:
    """Return the last complaint of fmsci in the logs of a link (a star stands for any array task), and its place."""
    for log in reversed(logs):
        for path in sorted(Path(log).parent.glob(Path(log).name)):
            said = warnings_in(path)
            if said:
                return f"{said[-1]} (see {path})"
    return f"see {logs[0]}" if logs else None
