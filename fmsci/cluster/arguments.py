"""What follows a job script, a settings file, ``key=value`` and options, and what of that work is not done yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from fmsci.config import ScalingSettings, Schema, StudySettings, load_settings
from fmsci.scaling.points import missing
from fmsci.study.board import jobs_left
from fmsci.study.plan import plan

STAGE = "--stage="
"""Before the stage of a study that an array makes."""

FIRST = "--first="
"""Before the number of the job that an array counts from."""

ARRAY_JOBS = 1000
"""The most jobs of one array: Slurm counts to 1,000 where the site has not set its MaxArraySize."""

RANKS = "--ranks="
"""Before the number of ranks of the points that an array measures."""

S = TypeVar("S", bound=Schema)


def settings_of(cls: type[S], arguments: Sequence[str]) -> S:
    """Return the settings that the arguments of a job script name. Raises UserError where they are wrong."""
    return load_settings(cls, Path(arguments[0]), [word for word in arguments[1:] if not word.startswith("-")])


def stage_of(arguments: Sequence[str]) -> str:
    """Return the stage of a study that the arguments of its job script name: the sweep where they name none."""
    return next((word.removeprefix(STAGE) for word in arguments if word.startswith(STAGE)), "sweep")


def first_of(arguments: Sequence[str]) -> int | None:
    """Return the number of the job that an array counts from, or None: it is the only one of its stage."""
    found = [word.removeprefix(FIRST) for word in arguments if word.startswith(FIRST)]
    return int(found[0]) if found else None


def ranks_of(arguments: Sequence[str]) -> int | None:
    """Return the number of ranks that the arguments of a scaling job name, or None: it writes the report."""
    found = [word.removeprefix(RANKS) for word in arguments if word.startswith(RANKS)]
    return int(found[0]) if found else None


def missing_runs(arguments: Sequence[str]) -> list[int]:
    """Return the numbers of the jobs of a study's stage that have no result yet.

    Where the arguments name the first job of an array, those of this array, counted from there.
    """
    left, first = jobs_left(plan(settings_of(StudySettings, arguments)), stage_of(arguments)), first_of(arguments)
    return left if first is None else part_of(left, first)


def part_of(numbers: Sequence[int], first: int) -> list[int]:
    """Return those of some jobs that an array from ``first`` on makes, as it counts them."""
    return [number - first for number in numbers if first <= number < first + ARRAY_JOBS]


def missing_points(arguments: Sequence[str]) -> list[int]:
    """Return the numbers of the points of a scaling run, on as many ranks as the arguments name, without a result."""
    return missing(settings_of(ScalingSettings, arguments), ranks_of(arguments))
