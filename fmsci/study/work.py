"""The floating-point operations of a job: what the progress and the time left of a study are counted in."""

from __future__ import annotations

from fmsci.model.sizes import STEP_FLOPS, Architecture
from fmsci.study.jobs import Job, Run
from fmsci.study.plan import Plan


def shape_of(planned: Plan, run: Run) -> tuple[Architecture, int]:
    """Return the architecture that a run trains, with one input channel, and the grid of its data."""
    filed = {model.label if run.arm == "scratch" else model.name: model.shape for model in planned.models}
    folder = run.needs[0].parent  # of its data
    return filed[run.model], int(planned.folders[folder]["grid"])


def work_of(planned: Plan, job: Job) -> float:
    """Return the operations of a job's training and validation in GFLOP; 0 of jobs that do not train."""
    if not isinstance(job, Run):
        return 0.0
    shape, grid = shape_of(planned, job)
    if not grid:
        return 0.0
    return shape.flops(grid, grid) * STEP_FLOPS * job.samples_seen / 1e9
