"""Which points a scaling run measures: pure functions of the settings, and the file of each point's result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmsci.config import ScalingSettings
from fmsci.config.sections import EngineSettings
from fmsci.dataset.order import share
from fmsci.errors import UserError
from fmsci.files import read_json
from fmsci.model.sizes import Architecture, architecture

UNTIMED = {"device", "threads", "rendezvous_s", "timeout_s"}
"""Settings of an engine that do not change what a step computes."""


@dataclass(frozen=True)
class Point:
    """One training step that is timed: ``batch`` samples over all ranks, by an engine, on so many ranks."""

    world_size: int
    model: str
    engine: str
    how: EngineSettings
    batch: int
    grid: int
    coefficients: int
    limit_mbit: float | None = None
    data: str | None = None

    @property
    def shape(self) -> Architecture:
        """The architecture of the model."""
        return architecture(1 + self.coefficients, self.model)

    @property
    def local(self) -> int:
        """Samples of the rank that has most."""
        return len(range(self.batch)[share(self.batch, self.world_size, 0)])

    @property
    def name(self) -> str:
        """The name of its result: readable, and different wherever the step is."""
        # without defaults: a setting that a later version adds does not rename what is measured
        how = self.how.model_dump(mode="json", exclude=UNTIMED, exclude_defaults=True)
        facts = json.dumps([how, self.grid, self.coefficients, self.data], sort_keys=True)
        limit = "" if self.limit_mbit is None else f"-{self.limit_mbit:g}mbit"
        key = hashlib.sha256(facts.encode()).hexdigest()[:6]
        return f"{self.model}-{self.how.precision}-{self.engine}-n{self.world_size}-b{self.batch}{limit}-{key}"

    def facts(self) -> dict[str, Any]:
        """Return the point for JSON; :func:`point_from` reads it back."""
        return {
            "world_size": self.world_size,
            "model": self.model,
            "engine": self.engine,
            "how": self.how.model_dump(mode="json", exclude_defaults=True),
            "batch": self.batch,
            "grid": self.grid,
            "coefficients": self.coefficients,
            "limit_mbit": self.limit_mbit,
            "data": self.data,
        }


def point_from(facts: dict[str, Any]) -> Point:
    """Return the point that :meth:`Point.facts` wrote."""
    return Point(**facts | {"how": EngineSettings(**facts["how"])})


def plan(settings: ScalingSettings) -> list[Point]:
    """Return all points, those on few ranks first, each once: weak and strong scaling may share some.

    A batch of fewer samples than ranks is left out: some ranks would have nothing to do.
    """
    points: dict[str, Point] = {}
    for world_size in sorted(settings.world_sizes):
        batches = [samples * world_size for samples in settings.weak]
        batches += [samples for samples in settings.strong if samples >= world_size]
        for model in settings.models:
            for engine, how in settings.engines.items():
                for precision in settings.precisions:
                    for batch in batches:
                        point = Point(
                            world_size,
                            model,
                            engine,
                            how.model_copy(update={"precision": precision}),
                            batch,
                            settings.grid,
                            settings.coefficients,
                            settings.network.limit_mbit if world_size > 1 else None,  # one rank sends nothing
                            None if settings.data is None else str(settings.data),
                        )
                        points.setdefault(point.name, point)
    return list(points.values())


def result_path(run: Path, point: Point) -> Path:
    """Return where the result of a point is."""
    return run / "points" / f"{point.name}.json"


def report_path(run: Path) -> Path:
    """Return where the report of a scaling run is, for programs; report.md beside it is for people."""
    return run / "report.json"


def missing(settings: ScalingSettings, ranks: int | None = None) -> list[int]:
    """Return the numbers of the points (in :func:`plan`) that have no result yet: of all, or on so many ranks."""
    return [
        number
        for number, point in enumerate(plan(settings))
        if ranks in {None, point.world_size} and not result_path(settings.run, point).exists()
    ]


@dataclass(frozen=True)
class Measured:
    """What a point came to. Times are medians over its repeats, of the slowest rank, in seconds of one step.

    ``alone_s``: all ranks at the same time, but none sends anything; ``update_s``: the optimizer's part of that.
    ``wait_s``: waiting for data. ``low_s`` and ``high_s``: fastest and slowest repeat. ``repeats``: each of them, by
    ``step``, ``alone`` and ``wait``, where the point was measured with its repeats kept.
    """

    point: Point
    nodes: int
    device: str
    step_s: float
    low_s: float
    high_s: float
    alone_s: float
    update_s: float
    wait_s: float
    memory_bytes: int | None
    repeats: dict[str, list[float]] | None = None

    @property
    def bare_s(self) -> float:
        """The step without any exchange: computing, and this engine's part of the update."""
        cut = self.point.how.kind == "zero" and self.point.how.zero_stage >= 1
        return self.alone_s - (self.update_s * (1 - 1 / self.point.world_size) if cut else 0.0)

    @property
    def communication(self) -> float:
        """Share of the step that is spent on exchanging beyond what goes on beside the computing."""
        return max(0.0, 1.0 - (self.bare_s + self.wait_s) / self.step_s) if self.point.world_size > 1 else 0.0

    @property
    def rate(self) -> float:
        """Samples a second of all ranks."""
        return self.point.batch / self.step_s

    @property
    def device_hours(self) -> float:
        """Hours of one device that a million samples cost."""
        return 1e6 / self.rate * self.point.world_size / 3600


def measured_from(document: dict[str, Any], where: str) -> Measured:
    """Return what a result file says. Raises UserError where it is none."""
    try:
        values = {key: document[key] for key in Measured.__dataclass_fields__ if key not in {"point", "repeats"}}
        return Measured(point_from(document["point"]), **values, repeats=document.get("repeats"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where} is no measured point ({error}); remove it") from None


def load_measured(settings: ScalingSettings) -> list[Measured]:
    """Return every measured point of the run folder, then those of the files in ``measured``.

    Raises UserError for a file that holds something else.
    """
    found = [measured_from(read_json(path), str(path)) for path in sorted((settings.run / "points").glob("*.json"))]
    for path in settings.measured:
        document = read_json(path)
        if not isinstance(document, list):
            raise UserError(f"{path} should hold a list of measured points, such as RUN/points.json")
        found += [measured_from(entry, str(path)) for entry in document]
    return found


def series(measured: Sequence[Measured], weak: Sequence[int], strong: Sequence[int]) -> dict[str, list[Measured]]:
    """Return the curves: points that differ only in the number of ranks, by title, in the order of ranks.

    Weak: the samples of a rank stay the same; strong: those of all ranks do. A point on one rank is the first of the
    curves of every link speed.
    """
    groups: dict[tuple[str, str], list[Measured]] = {}
    for one in sorted(measured, key=lambda one: one.point.world_size):
        point = one.point
        what = f"{point.model} {point.how.precision} {point.engine}"
        if point.batch % point.world_size == 0 and point.batch // point.world_size in weak:
            groups.setdefault((f"weak: {what}", f"{point.batch // point.world_size} samples a rank"), []).append(one)
        if point.batch in strong:
            groups.setdefault((f"strong: {what}", f"{point.batch} samples"), []).append(one)
    curves: dict[str, list[Measured]] = {}
    for (what, samples), members in groups.items():
        single = [one for one in members if one.point.world_size == 1]
        limits = {one.point.limit_mbit for one in members if one.point.world_size > 1} or {None}
        for limit in sorted(limits, key=lambda limit: limit or float("inf")):
            title = f"{what}, {samples}" + ("" if limit is None else f", {limit:g} Mbit/s")
            several = (one for one in members if one.point.world_size > 1 and one.point.limit_mbit == limit)
            curves[title] = [*single, *several]
    return curves


def efficiency(curve: Sequence[Measured]) -> list[float]:
    """Return samples a second of each device over those on the fewest ranks of the curve."""
    first = curve[0].rate / curve[0].point.world_size
    return [one.rate / one.point.world_size / first for one in curve]
