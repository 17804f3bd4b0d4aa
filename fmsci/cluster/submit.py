"""Submit one job: render its script into a folder, hand it to Slurm, remember its id."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fmsci.cluster.arguments import first_of, missing_points, missing_runs, ranks_of, settings_of, stage_of
from fmsci.cluster.queue import NoSlurmError, has_slurm, submit, try_submit
from fmsci.cluster.render import TEMPLATES, Job, render, tasks_of
from fmsci.cluster.run_folders import JOB_FILE
from fmsci.config import (
    GenerateSettings,
    ScalingSettings,
    SiteSettings,
    StudySettings,
    TrainSettings,
    dump_settings,
    load_settings,
)
from fmsci.errors import UserError, nearest
from fmsci.files import write_text
from fmsci.locks import LOCK, is_locked
from fmsci.study.identity import digest

SITES = Path("configs/site")

CONTINUES = ("--export=ALL,FMSCI_LINK=yes",)
"""For the second and later jobs of a chain."""


@dataclass(frozen=True)
class Request:
    """What a user asks for: a template, its arguments (a settings file first), a site, and what differs from both."""

    template: str
    arguments: tuple[str, ...]
    site: str = "generic"
    nodes: str = "1"
    account: str | None = None
    time: str | None = None
    concurrent: int = 4
    options: tuple[str, ...] = ()
    chain: int | None = None
    """So many jobs, one after the other, where the site requeues none; None: as many as usual."""


@dataclass(frozen=True)
class Prepared:
    """A script that is ready to be submitted, and where it and its log go."""

    folder: Path
    script: Path
    log: str
    text: str
    follows: bool
    """Whether ``folder`` is a run folder, which remembers its job."""
    settings: tuple[Path, str] | None = None
    """A file, with its text, of the settings that the job was submitted with; None: it reads its own when it starts."""
    shared: Path | None = None
    """The folder of the run folders that an array of a study makes, which studies may share."""


def prepare(request: Request) -> Prepared:
    """Return the job script of a request; nothing is written.

    Raises UserError for an unknown template or site, a missing account, and what is wrong with the settings.
    """
    if request.template not in TEMPLATES:
        near = nearest(request.template, TEMPLATES)
        raise UserError(f"there is no job '{request.template}'{near}; choose {', '.join(TEMPLATES)} or pipeline")
    folder = _folder(request.template, request.arguments)
    options = request.options
    name = "slurm-%j.log"
    script, nodes, arguments, settings, shared = request.template, request.nodes, request.arguments, None, None
    if request.template in {"study", "report"}:
        settings, arguments = _as_submitted(folder, request.arguments)
    if request.template == "study":
        shared = settings_of(StudySettings, request.arguments).runs_folder
        missing, stage = missing_runs(request.arguments), stage_of(request.arguments)
        if not missing:
            raise UserError(f"all runs of {folder} are finished; see fmsci study {request.arguments[0]} report")
        script += "" if stage == "sweep" else f"-{stage}"
        script += f"-{first}" if (first := first_of(request.arguments)) else ""
        options = (f"--array={','.join(map(str, missing))}%{request.concurrent}", *options)
        name = "slurm-%A_%a.log"
    elif request.template == "scaling" and (ranks := ranks_of(request.arguments)) is not None:
        nodes, tasks = nodes_for(ranks, load_site(request.site), request.site)
        numbers = ",".join(map(str, missing_points(request.arguments)))
        if not numbers:
            raise UserError(f"all points of {folder} on {ranks} ranks are measured")
        options = (f"--ntasks-per-node={tasks}", f"--array={numbers}%{request.concurrent}", *options)
        script, name = f"scaling-{ranks}", "slurm-%A_%a.log"
    elif request.template in {"report", "scaling"}:
        script, name, nodes = "report", "report-%j.log", "1"  # a process writes it
    log = str(folder / name)
    job = Job(request.template, arguments, log, nodes, request.account, request.time, options)
    template = _template_folder() / f"{request.template}.sbatch"
    text = render(template.read_text(encoding="utf-8"), job, load_site(request.site), request.site)
    if template.parent != Path("slurm"):
        text = text.replace("\nset -- ", f"\nexport FMSCI_SLURM={shlex.quote(str(template.parent))}\nset -- ", 1)
    follows = request.template in {"pretrain", "finetune"}
    return Prepared(folder, folder / f"{script}.sbatch", log, text, follows, settings, shared)


def check(prepared: Prepared) -> str:
    """Ask Slurm whether it would take the job; return what it says. Raises UserError with its reason where not."""
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch", encoding="utf-8") as trial:
        trial.write(prepared.text)
        trial.flush()
        return try_submit(Path(trial.name))


def verdict(prepared: Prepared) -> str:
    """Return what Slurm says of the job without submitting it; where there is none to ask, why."""
    if not has_slurm():
        return "not checked: there is no Slurm here"
    try:
        return f"Slurm: {check(prepared)}"
    except NoSlurmError as error:
        return f"not checked: {error}"


def send(prepared: Prepared, options: Sequence[str] = ()) -> str:
    """Write the script into its folder, submit it, and return the job's id."""
    check(prepared)  # before anything is written
    _write(prepared)
    job = submit(prepared.script, options)
    if prepared.follows and not is_locked(prepared.folder / LOCK):  # the job that trains there now stays known
        write_text(prepared.folder / JOB_FILE, f"{job} 0\n")
    return job


def _write(prepared: Prepared) -> None:
    if prepared.settings is not None:
        write_text(*prepared.settings)
    write_text(prepared.script, prepared.text)


def log_of(pattern: str, job: str) -> str:
    """Return the path of a job's log (of all its array's tasks, with a star) from the pattern that Slurm was given."""
    return pattern.replace("%j", job).replace("%A", job).replace("%a", "*")


def send_chain(prepared: Prepared, links: int, options: Sequence[str] = (), dependency: str = "") -> Iterator[str]:
    """Submit the same job ``links`` times, one after the other: each continues what the one before has saved.

    Yields each job's id as it is made, so that those made are known where Slurm takes no more.

    For sites where jobs may not be requeued. A link that finds its work finished ends at once. All of them also wait
    for ``dependency``, as sbatch takes it: none may start where that fails.
    """
    own = [*options, *_one_at_a_time(prepared, dependency)]
    yield send(prepared, own)
    for _ in range(links - 1):
        yield submit(prepared.script, [*own, *CONTINUES])


def lengthen_chain(
    prepared: Prepared, after: str, links: int, options: Sequence[str] = (), dependency: str = ""
) -> Iterator[str]:
    """Submit ``links`` more jobs of a chain whose last one in the queue is ``after``; else as :func:`send_chain`."""
    _write(prepared)
    waits = ",".join(part for part in (f"afterany:{after}", dependency) if part)
    for _ in range(links):
        yield submit(prepared.script, [*options, *_one_at_a_time(prepared, waits), *CONTINUES])


def _one_at_a_time(prepared: Prepared, dependency: str) -> tuple[str, str]:
    """Return options by which jobs of one script start one after the other, and also wait for a dependency."""
    name = "-".join([prepared.script.stem, *prepared.folder.parts[-2:]]).strip("/")
    waits = f"--dependency={dependency},singleton" if dependency else "--dependency=singleton"
    return waits, f"--job-name={name}"


def _as_submitted(folder: Path, arguments: Sequence[str]) -> tuple[tuple[Path, str], tuple[str, ...]]:
    """Return a file with a study's settings as they are now, and the arguments that name it.

    A task of an array is told its number: it has to look it up in the settings that the array was submitted with, even
    where the file that they came from has changed while it waited. The report is that of the runs of these settings.
    """
    settings = settings_of(StudySettings, arguments)
    path = folder / f"submitted-{digest(settings.model_dump(mode='json', exclude_defaults=True))}.yaml"
    return (path, dump_settings(settings)), (str(path), *(word for word in arguments[1:] if word.startswith("-")))


def nodes_for(ranks: int, site: SiteSettings, name: str) -> tuple[str, int]:
    """Return how many nodes of a site hold so many ranks, and the ranks on each. UserError where that is uneven."""
    most = tasks_of(site.gpu_nodes)
    nodes, tasks = -(-ranks // most), min(ranks, most)
    if nodes * tasks != ranks:
        raise UserError(f"{ranks} ranks do not fill nodes of {name}, with {most} each; choose other world_sizes")
    return str(nodes), tasks


def load_site(name: str) -> SiteSettings:
    """Return the settings of ``configs/site/NAME.yaml``, or of the file named. UserError where there is none."""
    path = Path(name) if name.endswith(".yaml") else _beside(SITES) / f"{name}.yaml"
    if not path.exists():
        known = sorted(item.stem for item in path.parent.glob("*.yaml"))
        raise UserError(f"there is no site '{name}'{nearest(name, known)}; known: {', '.join(known)}, or a file .yaml")
    return load_settings(SiteSettings, path)


def _folder(template: str, arguments: Sequence[str]) -> Path:
    """Return the folder for a job's script and log. Raises UserError where the settings are wrong."""
    if not arguments:
        raise UserError(f"what is to be submitted? write fmsci submit {template} CONFIG [KEY=VALUE]...")
    if template == "evaluate":  # where its result goes: beside the model, its first argument, unless --output says it
        return Path(_option("--output", arguments) or arguments[0]).parent
    if template == "generate":
        return Path("runs") / f"generate-{settings_of(GenerateSettings, arguments).output.name}"
    if template in {"study", "report"}:
        return settings_of(StudySettings, arguments).run
    if template == "scaling":
        return settings_of(ScalingSettings, arguments).run
    return settings_of(TrainSettings, arguments).run


def _option(name: str, arguments: Sequence[str]) -> str | None:
    """Return the value of an option, ``--name value`` or ``--name=value``, among words; None where it is not there."""
    found = None
    for word, following in zip(arguments, (*arguments[1:], None), strict=True):
        if word == name:
            found = following
        elif word.startswith(f"{name}="):
            found = word.partition("=")[2]
    return found


def _template_folder() -> Path:
    return _beside(Path("slurm"), "env.sh")  # a folder of that name alone may be anything


def _beside(folder: Path, holds: str = ".") -> Path:
    """Return a folder of the checkout: of the current one, else of that which this program runs from."""
    home = Path(__file__).parents[2]
    if (folder / holds).exists():
        return folder
    if (home / folder / holds).exists():
        return home / folder
    raise UserError(f"there is no folder {folder} here: submit from the checkout")
