"""Generate, pretrain, fine-tune, evaluate, report: jobs that wait for one another, and only what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fmsci.cluster.arguments import missing_runs
from fmsci.cluster.queue import Queue, Queued, queue, still_queued
from fmsci.cluster.run_folders import PIPELINE_FILE
from fmsci.cluster.sharing import SentLink, check_alone, read_record, remember
from fmsci.cluster.submit import (
    Prepared,
    Request,
    check,
    lengthen_chain,
    load_site,
    log_of,
    prepare,
    send,
    send_chain,
    verdict,
)
from fmsci.config import GenerateSettings, PipelineSettings, StudySettings, TrainSettings, load_settings
from fmsci.errors import UserError
from fmsci.evaluation import evaluation_path, read_evaluation
from fmsci.files import write_json
from fmsci.shards import read_manifest
from fmsci.shards.content import content_hash, made_data
from fmsci.shards.layout import MANIFEST
from fmsci.study.plan import plan
from fmsci.study.reported import is_reported
from fmsci.train.outcome import RESULT

CONTINUED = {"generate", "pretrain", "study"}
"""Jobs that are asked to save before their time limit, and go on in another one."""

USUAL_CHAIN = 3
"""Jobs for each of those where the site requeues none: what waits for them needs one that ends well."""


@dataclass(frozen=True)
class Link:
    """One job: its name, what to submit, the links that it waits for, whether its result is there already."""

    name: str
    request: Request
    after: tuple[str, ...]
    finished: bool
    summary: bool = False
    """True where it sums up what it waits for: it is made again when one of those is."""


@dataclass(frozen=True)
class Placed:
    """What became of a link: ``finished``, ``queued`` (earlier) or ``submitted``; its jobs; what it awaits."""

    name: str
    what: str
    jobs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    log: str = ""
    missing: int = 0
    """Jobs of its chain that Slurm did not take when the others were submitted."""
    script: str = ""
    """The text of the job script, and what Slurm says of it, of a link that would be submitted."""
    verdict: str = ""

    @property
    def last(self) -> str:
        """The job that what depends on this link waits for."""
        return self.jobs[-1]


def links(settings: PipelineSettings, base: Request) -> list[Link]:
    """Return the links in an order in which each comes after those it waits for.

    Raises UserError where the configurations do not fit together.
    """
    train = load_settings(TrainSettings, settings.pretrain)
    study = load_settings(StudySettings, settings.study)
    wanted = [source.folder for source in study.models.values()]
    if train.run / "model" not in wanted:
        tuned = ", ".join(str(folder or "models of its own") for folder in wanted)
        raise UserError(f"{settings.study} fine-tunes {tuned}, but {settings.pretrain} makes {train.run / 'model'}")
    return list(_links(settings, base, train, study))


def _links(settings: PipelineSettings, base: Request, train: TrainSettings, study: StudySettings) -> Iterator[Link]:
    def request(template: str, *arguments: object) -> Request:
        nodes = {**settings.nodes}.get(template, "1")  # type: ignore[call-overload]
        return replace(base, template=template, arguments=tuple(map(str, arguments)), nodes=nodes)

    data: list[str] = []
    for config in settings.generate:
        output = load_settings(GenerateSettings, config).output
        data.append(_once(f"generate {output.name}", data))
        yield Link(data[-1], request("generate", config), (), (output / MANIFEST).exists())
    done = (train.run / RESULT).exists()
    yield Link("pretrain", request("pretrain", settings.pretrain), tuple(data), done)
    wanted = replace(request("study", settings.study), concurrent=settings.concurrent)
    awaited = ["study"]
    yield Link("study", wanted, ("pretrain", *data), not missing_runs([str(settings.study)]))
    for folder in settings.evaluate:
        model = train.run / "model"
        awaited.append(_once(f"evaluate {folder.name}", awaited))
        done = _evaluated(model, folder)
        yield Link(awaited[-1], request("evaluate", model, "--data", folder), ("pretrain", *data), done, summary=True)
    done = is_reported(plan(study), ["sweep"])  # the stage that a pipeline makes
    yield Link("report", request("report", settings.study), tuple(awaited), done, summary=True)


def _once(name: str, before: Sequence[str]) -> str:
    """Return the name of a link. UserError where one has it already: jobs and results are filed under it."""
    if name in before:
        raise UserError(f"the pipeline has two jobs '{name}': name one of the two data folders otherwise")
    return name


def _evaluated(model: Path, data: Path) -> bool:
    """Tell whether the error on these data is there; a folder of the same name may have lain elsewhere."""
    path = evaluation_path(model, data, "test")
    if not path.exists() or not (data / MANIFEST).exists():
        return path.exists()
    try:
        return read_evaluation(path).content in {None, content_hash(made_data(read_manifest(data)))}
    except UserError:  # damaged: it is made again
        return False


def submit_pipeline(config: Path, overrides: Sequence[str], base: Request, dry_run: bool = False) -> list[Placed]:
    """Submit every link whose result is missing and that is not in the queue; return what became of each.

    A link starts when all it waits for ended well; where one failed, Slurm cancels what waits for it. Where the site
    requeues no job, a link that can be continued is a chain of jobs. With ``dry_run`` nothing is submitted, and each
    link brings its script and what Slurm says of it.

    Raises UserError for a mistake in any link before the first is submitted, and where Slurm stops taking jobs.
    """
    settings = load_settings(PipelineSettings, config, overrides)
    study = load_settings(StudySettings, settings.study)
    document = {"pipeline": str(config), "overrides": list(overrides)}
    return submit_links(links(settings, base), study.run / PIPELINE_FILE, document, dry_run, study.runs_folder)


def submit_links(
    wanted: Sequence[Link],
    record: Path,
    source: Mapping[str, Any],
    dry_run: bool = False,
    shared: Path | None = None,
) -> list[Placed]:
    """Submit links as :func:`submit_pipeline` does; ``record`` keeps their jobs, and what they came from.

    ``shared`` is a folder of runs that serves one pipeline at a time.
    """
    known: dict[str, Queued] = {}
    with suppress(*([UserError] if dry_run else [])):  # a look works without Slurm too
        known = (queue() or Queue()).submitted
    if shared is not None:
        check_alone(shared, record, known)
    before = read_record(record).links if record.exists() else {}
    sent = {name: entry.model_dump() for name, entry in before.items()}
    placed = decide(wanted, before, known)
    wanting = [link for link in wanted if placed[link.name].what == "submitted" or placed[link.name].missing]
    ready = {link.name: prepare(link.request) for link in wanting}
    if dry_run:
        return [_looked_at(place, ready.get(name)) for name, place in placed.items()]
    for prepared in ready.values():
        check(prepared)
    if shared is not None and ready:
        remember(shared, record)
    document = {**source, "links": sent}
    for link in wanting:
        prepared, place = ready[link.name], placed[link.name]
        there = before[link.name] if place.missing else SentLink(chain=_length(link.request))
        jobs = list(there.jobs)
        try:
            for job in _send(prepared, place, there.chain, [placed[name].last for name in place.after]):
                jobs.append(job)
                now = (*placed[link.name].jobs, job)
                placed[link.name] = replace(place, jobs=now, log=log_of(prepared.log, now[0]))
                logs = [log_of(prepared.log, one) for one in jobs]
                sent[link.name] = {"jobs": jobs, "logs": logs, "chain": there.chain}
                write_json(record, document)
        except UserError as error:
            done = [name for name, other in placed.items() if other.what == "submitted" and other.jobs]
            told = f" ({', '.join(done)} submitted so far; the same command submits the rest)" if done else ""
            raise UserError(f"{link.name}: {error}{told}") from None
    return list(placed.values())


def _looked_at(place: Placed, prepared: Prepared | None) -> Placed:
    """Return what a look tells of a link that would be submitted. UserError where Slurm would not take it."""
    if prepared is None:
        return place
    try:
        return replace(place, log=prepared.log, script=prepared.text, verdict=verdict(prepared))
    except UserError as error:
        raise UserError(f"{place.name}: {error}") from None


def decide(wanted: Sequence[Link], sent: Mapping[str, SentLink], known: Mapping[str, Queued]) -> dict[str, Placed]:
    """Return for each link whether it is finished, in the queue, or to be submitted, and what it then waits for.

    ``sent`` are the jobs of earlier submissions, ``known`` what Slurm has. What is finished stays so, even where what
    it was made from is made again, unless it is a summary of that. A chain in the queue may have jobs missing.
    """
    placed: dict[str, Placed] = {}
    for link in wanted:
        waits = tuple(name for name in link.after if placed[name].what != "finished")
        there = sent.get(link.name, SentLink())
        alive = tuple(still_queued(there.jobs, known))
        if alive:
            missing = 0 if link.finished else max(0, there.chain - len(there.jobs))
            placed[link.name] = Placed(link.name, "queued", alive, waits if missing else (), missing=missing)
        elif link.finished and not (link.summary and waits):
            placed[link.name] = Placed(link.name, "finished")
        else:
            placed[link.name] = Placed(link.name, "submitted", after=waits)
    return placed


def _length(request: Request) -> int:
    """Return how many jobs a link is, one after the other."""
    usual = 1 if load_site(request.site).requeue else USUAL_CHAIN
    return request.chain or usual if request.template in CONTINUED else 1


def _send(prepared: Prepared, place: Placed, length: int, awaited: Sequence[str]) -> Iterator[str]:
    """Submit what is missing of a link of so many jobs, which wait for the jobs ``awaited``, and yield its jobs."""
    dependency = f"afterok:{':'.join(awaited)}" if awaited else ""
    kill = ["--kill-on-invalid-dep=yes"] if awaited else []
    if place.missing:
        yield from lengthen_chain(prepared, place.last, place.missing, kill, dependency)
    elif length > 1:
        yield from send_chain(prepared, length, kill, dependency)
    else:
        yield send(prepared, [f"--dependency={dependency}", *kill] if awaited else [])
