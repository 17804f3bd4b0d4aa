"""The settings of job scripts: what a cluster is like, and which jobs make a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from fmsci.config.schema import Schema
from fmsci.config.sections import Count

NumNodes = Annotated[str, BeforeValidator(lambda given: str(given) if type(given) is int else given)]
"""As sbatch --nodes: a number, or a range such as 2-4."""


class NodeSettings(Schema):
    """``gpu_nodes`` and ``cpu_nodes`` of a site: how its nodes are asked for, and what is in one."""

    partition: str | None = Field(None, description="sbatch --partition")
    qos: str | None = Field(None, description="sbatch --qos")
    constraint: str | None = Field(None, description="sbatch --constraint")
    gpus: Annotated[int, Field(ge=0)] = Field(0, description="GPUs of a node, as torch counts them")
    gpu_option: Literal["gpus-per-node", "gres"] = Field("gpus-per-node", description="how the site wants them asked")
    cores: Count | None = Field(None, description="CPUs of a node that jobs may use, as Slurm counts them")
    tasks: Count | None = Field(None, description="tasks on a node; one for each GPU where not set, else one")
    options: tuple[str, ...] = Field((), description="more options for sbatch, such as --exclusive")
    srun: tuple[str, ...] = Field((), description="more options for srun on these nodes")


class SiteSettings(Schema):
    """``configs/site/NAME.yaml``: what a job script needs to know of a cluster."""

    account: str | None = Field(None, description="sbatch --account; fmsci submit --account overrides it")
    account_needed: bool = Field(False, description="true where the site takes no job without an account")
    gpu_nodes: NodeSettings = Field(default_factory=NodeSettings, description="for training, evaluation, studies")
    cpu_nodes: NodeSettings | None = Field(None, description="for fmsci generate; the same nodes where not set")
    time: str | None = Field(None, description="time limit, as sbatch --time; the job script's own where not set")
    max_time: str | None = Field(None, description="the most that the site gives a job: no job script asks for more")
    modules: tuple[str, ...] = Field((), description="module load, in this order")
    environment: dict[str, str] = Field(default_factory=dict, description="variables to export")
    setup: tuple[str, ...] = Field((), description="shell lines before the job begins")
    mpi: str | None = Field(None, description="srun --mpi for fmsci generate; the site's default where not set")
    host_suffix: str = Field("", description="what a host's name needs for its fast network")
    requeue: bool = Field(True, description="false where jobs may not be requeued: a chain of jobs continues then")


class PipelineSettings(Schema):
    """``fmsci submit pipeline``: generate, then pretrain, then a study and zero-shot errors, then its report."""

    generate: tuple[Path, ...] = Field((), description="generate configurations: the data of all that follows")
    pretrain: Path = Field(description="a train configuration")
    study: Path = Field(description="a study configuration: its runs become an array")
    evaluate: tuple[Path, ...] = Field((), description="data folders to measure the pretrained model on")
    nodes: dict[Literal["generate", "pretrain", "study", "evaluate"], NumNodes] = Field(
        default_factory=dict, description="nodes of each kind of job, as sbatch --nodes; 1 where not set"
    )
    concurrent: Count = Field(4, description="runs of the study at the same time")
