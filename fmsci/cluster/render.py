"""A job script for one site: a template of slurm/, the site's options, the settings. Text in, text out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from fmsci.config import NodeSettings, SiteSettings
from fmsci.errors import UserError

TEMPLATES = ("generate", "pretrain", "finetune", "evaluate", "study", "report", "scaling")

DIRECTIVE = "#SBATCH "


@dataclass(frozen=True)
class Job:
    """What one submission asks for; None and empty where the template or the site decides."""

    template: str
    arguments: tuple[str, ...]
    """What follows the script: a settings file and ``key=value``."""
    log: str
    nodes: str = "1"
    account: str | None = None
    time: str | None = None
    options: tuple[str, ...] = ()
    """More options for sbatch; they win over the template's and the site's."""


def render(template: str, job: Job, site: SiteSettings, site_name: str) -> str:
    """Return the script: the template's directives with the site's over them, the site's environment, the body.

    Raises UserError where the site needs an account and none is given, nodes or time are none, or an option is none.
    """
    bounds = [int(number) for number in re.findall(r"\d+", job.nodes)]
    if not re.fullmatch(r"\d+(-\d+)?", job.nodes) or bounds[0] < 1 or bounds != sorted(bounds):
        raise UserError(f"'{job.nodes}' is no number of nodes; write it as 4, or as a range such as 2-4")
    if job.time is not None:
        seconds_of(job.time)
    account = job.account or site.account
    if site.account_needed and account is None:
        raise UserError(
            f"{site_name} takes no job without an account: add --account NAME, or account: to the site file"
        )
    own, body = _split(template)
    options = _table(own) | _table(_site_options(job, site, account))
    if job.time is None and site.max_time is not None and "time" in options:
        options["time"] = min(options["time"], site.max_time, key=seconds_of)
    options |= _table(job.options)
    if "no-requeue" in options:
        options.pop("requeue", None)
    lines = ["#!/bin/bash", f"# {job.template} for {site_name}, written by fmsci submit."]
    lines += [DIRECTIVE + f"--{name}" + (f"={shlex.quote(value)}" if value else "") for name, value in options.items()]
    lines += ["", *_environment(job, site), f"set -- {shlex.join(job.arguments)}", body]
    return "\n".join(lines)


def nodes_of(template: str, site: SiteSettings) -> NodeSettings:
    """Return the kind of nodes that a template runs on."""
    return site.cpu_nodes or site.gpu_nodes if template == "generate" else site.gpu_nodes


def _site_options(job: Job, site: SiteSettings, account: str | None) -> list[str]:
    nodes = nodes_of(job.template, site)
    tasks = tasks_of(nodes)
    cores = None if nodes.cores is None else max(1, nodes.cores // tasks)
    if is_range(job.nodes):  # asked for tasks, Slurm gives the nodes for the fewest of them: ask for the nodes' cores
        cores = nodes.cores
    wanted = {
        "account": account,
        "partition": nodes.partition,
        "qos": nodes.qos,
        "constraint": nodes.constraint,
        "nodes": job.nodes,
        "ntasks-per-node": None if is_range(job.nodes) or not (nodes.tasks or nodes.gpus or nodes.cores) else tasks,
        "cpus-per-task": cores,
        "time": job.time or site.time,
        "output": job.log,
    }
    if nodes.gpus:
        wanted[nodes.gpu_option] = nodes.gpus if nodes.gpu_option == "gpus-per-node" else f"gpu:{nodes.gpus}"
    options = [f"--{name}={value}" for name, value in wanted.items() if value is not None]
    return [*options, *(() if site.requeue else ("--no-requeue",)), *nodes.options]


def tasks_of(nodes: NodeSettings) -> int:
    """Return how many tasks one of these nodes runs."""
    return nodes.tasks or max(nodes.gpus, 1)


def is_range(nodes: str) -> bool:
    """Tell whether ``--nodes`` leaves the number open: ``2-4``."""
    return "-" in nodes


def seconds_of(limit: str) -> float:
    """Return a time limit of sbatch in seconds: minutes, m:s, h:m:s, d-h, d-h:m or d-h:m:s. UserError for others."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if match is None:
        raise UserError(f"'{limit}' is no time limit; write it as 12:00:00 or 1-06:00:00")
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None or len(parts) == 3:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, minutes, seconds = 0, *[*parts, 0][:2]
    return 86400.0 * int(days or 0) + 3600.0 * hours + 60.0 * minutes + seconds


def _environment(job: Job, site: SiteSettings) -> list[str]:
    """Return the shell lines before the template's body."""
    lines = [f"module load {shlex.join(site.modules)}"] if site.modules else []
    variables = dict(site.environment)
    variables["FMSCI_MPI"] = site.mpi or ""
    nodes = nodes_of(job.template, site)
    if is_range(job.nodes):
        variables["FMSCI_TASKS"] = str(tasks_of(nodes))
    if nodes.srun:
        variables["FMSCI_SRUN_ARGS"] = " ".join(nodes.srun)
    if site.host_suffix:
        variables["FMSCI_HOST_SUFFIX"] = site.host_suffix
    if not site.requeue:
        variables["FMSCI_REQUEUE"] = "no"
    return [*lines, *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()), *site.setup]


def _split(template: str) -> tuple[list[str], str]:
    """Return the options that a template gives to sbatch, and what stands behind them."""
    lines = template.splitlines()
    given = [index for index, line in enumerate(lines) if line.startswith(DIRECTIVE)]
    return [lines[index].removeprefix(DIRECTIVE) for index in given], "\n".join([*lines[given[-1] + 1 :], ""])


def _table(options: Sequence[str]) -> dict[str, str]:
    """Return ``{"time": "1:00"}`` for ``["--time=1:00"]``; a switch has an empty value."""
    table: dict[str, str] = {}
    for option in options:
        name, _, value = option.removeprefix("--").partition("=")
        if not option.startswith("--") or not name:
            raise UserError(f"'{option}' is no option for sbatch; write --name=value, or --name")
        table[name] = value
    return table
