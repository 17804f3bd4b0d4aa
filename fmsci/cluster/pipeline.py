"""Generate, pretrain, fine-tune, evaluate, report: jobs that wait for one another, and only what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fmsci.cluster.queue import Queued, queue
from fmsci.cluster.submit import Request, check, log_of, missing_runs, prepare, send
from fmsci.config import GenerateSettings, PipelineSettings, StudySettings, TrainSettings, load_settings
from fmsci.errors import UserError
from fmsci.evaluate import evaluation_path
from fmsci.files import read_json, write_json
from fmsci.shards.layout import MANIFEST

JOBS = "pipeline.json"
"""In the study's folder: the job id of every link that was submitted."""


@dataclass(frozen=True)
class Link:
    """One job: its name, what to submit, the links that it waits for, whether its result is there already."""

    name: str
    request: Request
    after: tuple[str, ...]
    finished: bool


@dataclass(frozen=True)
class Placed:
    """What became of a link: ``finished``, ``queued`` (earlier) or ``submitted``; its job; what it awaits."""

    name: str
    what: str
    job: str | None = None
    after: tuple[str, ...] = ()
    log: str = ""


def links(settings: PipelineSettings, base: Request) -> list[Link]:
    """Return the links in an order in which each comes after those it waits for.

    Raises UserError where the configurations do not fit together.
    """
    train = load_settings(TrainSettings, settings.pretrain)
    study = load_settings(StudySettings, settings.study)
    if study.pretrained != train.run / "model":
        raise UserError(
            f"{settings.study} fine-tunes {study.pretrained}, but {settings.pretrain} makes {train.run / 'model'}"
        )
    return list(_links(settings, base, train, study))


def _links(settings: PipelineSettings, base: Request, train: TrainSettings, study: StudySettings) -> Iterator[Link]:
    def request(template: str, *arguments: object) -> Request:
        nodes = {**settings.nodes}.get(template, "1")  # type: ignore[call-overload]
        return replace(base, template=template, arguments=tuple(map(str, arguments)), nodes=nodes)

    data = []
    for config in settings.generate:
        output = load_settings(GenerateSettings, config).output
        data.append(f"generate {output.name}")
        yield Link(data[-1], request("generate", config), (), (output / MANIFEST).exists())
    done = (train.run / "result.json").exists()
    yield Link("pretrain", request("pretrain", settings.pretrain), tuple(data), done)
    wanted = replace(request("study", settings.study), concurrent=settings.concurrent)
    awaited = ["study"]
    yield Link("study", wanted, ("pretrain", *data), not missing_runs([str(settings.study)]))
    for folder in settings.evaluate:
        model = train.run / "model"
        awaited.append(f"evaluate {folder.name}")
        done = evaluation_path(model, folder, "test").exists()
        yield Link(awaited[-1], request("evaluate", model, "--data", folder), ("pretrain", *data), done)
    yield Link("report", request("report", settings.study), tuple(awaited), (study.run / "table.json").exists())


def submit_pipeline(settings: PipelineSettings, base: Request, dry_run: bool = False) -> list[Placed]:
    """Submit every link whose result is missing and that is not in the queue; return what became of each.

    A link starts when all it waits for ended well; where one failed, Slurm cancels what waits for it. Nothing is
    submitted with ``dry_run``.

    Raises UserError for a mistake in any link before the first is submitted.
    """
    wanted = links(settings, base)
    record = load_settings(StudySettings, settings.study).run / JOBS
    jobs: dict[str, str] = read_json(record) if record.exists() else {}
    known = {} if dry_run else queue()
    for link in wanted:
        if not link.finished:
            prepared = prepare(link.request)
            if not dry_run:
                check(prepared)
    placed: dict[str, Placed] = {}
    for link in wanted:
        waits = [name for name in link.after if placed[name].what != "finished"]
        placed[link.name] = _place(link, waits, placed, jobs, known, dry_run)
        if placed[link.name].what == "submitted" and not dry_run:
            jobs[link.name] = str(placed[link.name].job)
            write_json(record, jobs)
    return list(placed.values())


def _place(
    link: Link,
    waits: Sequence[str],
    placed: Mapping[str, Placed],
    jobs: Mapping[str, str],
    known: Mapping[str, Queued],
    dry_run: bool,
) -> Placed:
    job = jobs.get(link.name)
    if job is not None and job in known and known[job].alive:
        return Placed(link.name, "queued", job)
    if link.finished and not waits:
        return Placed(link.name, "finished")
    prepared = prepare(link.request)
    if dry_run:
        return Placed(link.name, "submitted", None, tuple(waits), prepared.log)
    ids = [str(placed[name].job) for name in waits]
    options = [f"--dependency=afterok:{':'.join(ids)}", "--kill-on-invalid-dep=yes"] if ids else []
    job = send(prepared, options)
    return Placed(link.name, "submitted", job, tuple(waits), log_of(prepared.log, job))


def load_pipeline(path: Path, overrides: Sequence[str]) -> PipelineSettings:
    """Return the settings of a pipeline file with overrides on top."""
    return load_settings(PipelineSettings, path, overrides)
