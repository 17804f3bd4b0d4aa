"""What points came to: the files of their results, and the curves that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fmsci.config import Open, ScalingSettings, parse
from fmsci.config.sections import Count, EngineSettings, NonNegative, Positive, Size, Whole
from fmsci.errors import UserError
from fmsci.files import read_json
from fmsci.scaling.points import REPLAYED, Point


class PointDocument(Open):
    """``point`` in a result file, as :meth:`fmsci.scaling.points.Point.facts` wrote it."""

    world_size: Count
    model: Size
    engine: str
    how: EngineSettings
    batch: Count
    grid: Count
    coefficients: Count
    limit_mbit: Positive | None = None
    data: str | None = None


class MeasuredDocument(Open):
    """A result file: the fields of :class:`Measured`."""

    point: PointDocument
    nodes: Count
    device: str
    step_s: Positive
    low_s: Positive
    high_s: Positive
    alone_s: Positive
    update_s: NonNegative
    wait_s: NonNegative
    memory_bytes: Whole | None
    repeats: dict[str, list[NonNegative]] | None = None
    replayed: bool = False


@dataclass(frozen=True)
class Measured:
    """What a point came to. Times are medians over its repeats, of the slowest rank, in seconds of one step.

    ``alone_s``: all ranks at the same time, but none sends anything; ``update_s``: the optimizer's part of that.
    ``wait_s``: waiting for data. ``low_s`` and ``high_s``: fastest and slowest repeat. ``repeats``: each of them, by
    ``step``, ``alone`` and ``wait``, where the point was measured with its repeats kept. ``replayed``: whether several
    ranks replay these steps, and so those of ``alone_s`` were.
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
    replayed: bool = False

    @property
    def computing(self) -> tuple[str, ...]:
        """See :attr:`fmsci.scaling.points.Point.computing`; with how its kernels are started."""
        return (*self.point.computing, REPLAYED) if self.replayed else self.point.computing

    @property
    def bare_s(self) -> float:
        """The step without any exchange: computing, and this engine's part of the update."""
        cut = self.update_s * (1 - 1 / self.point.world_size) if self.point.how.stage else 0.0
        return self.alone_s - cut

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


def measured_from(document: Any, where: str) -> Measured:
    """Return what a result file says. Raises UserError where it is none."""
    try:
        found = parse(MeasuredDocument, document, where)
    except UserError as error:
        raise UserError(f"{error}; it is no measured point: remove it") from None
    return Measured(**dict(found) | {"point": Point(**dict(found.point))})


def load_measured(settings: ScalingSettings) -> list[Measured]:
    """Return the measured points on the grid of the settings, each once: of the run folder, then of ``measured``.

    Of those files only what the folder's own device did, where the folder has points. Raises UserError for a file that
    holds something else.
    """
    own = [measured_from(read_json(path), str(path)) for path in sorted((settings.run / "points").glob("*.json"))]
    devices = {one.device for one in own if one.point.grid == settings.grid}
    found = {(one.point.name, one.nodes, one.device): one for one in own}
    for path in settings.measured:
        document = read_json(path)
        if not isinstance(document, list):
            raise UserError(f"{path} should hold a list of measured points, such as RUN/points.json")
        for one in (measured_from(entry, str(path)) for entry in document):
            if not devices or one.device in devices:
                found.setdefault((one.point.name, one.nodes, one.device), one)
    return [one for one in found.values() if one.point.grid == settings.grid]


def series(measured: Sequence[Measured], weak: Sequence[int], strong: Sequence[int]) -> dict[str, list[Measured]]:
    """Return the curves: points that differ only in the number of ranks, by title, in the order of ranks.

    Weak: the samples of a rank stay the same; strong: those of all ranks do. A point on one rank is the first of the
    curves of every link speed. Where engines of one name differ, the titles say in what.
    """
    differ = _differences(measured)
    groups: dict[tuple[str, str], list[Measured]] = {}
    for one in sorted(measured, key=lambda one: one.point.world_size):
        point = one.point
        own = _facts(one)
        told = ", ".join(f"{name} {own.get(name, 'as usual')}" for name in differ[point.engine])
        what = f"{point.model} {point.how.precision} {point.engine}" + (f" ({told})" if told else "")
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


def _facts(one: Measured) -> dict[str, Any]:
    """Return what a curve's points have in common beside its title."""
    return one.point.variant | {"device": one.device}


def _differences(measured: Sequence[Measured]) -> dict[str, list[str]]:
    """Return for each engine's name the facts in which its points differ: points of different curves."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for one in measured:
        by_name.setdefault(one.point.engine, []).append(_facts(one))
    return {
        engine: [
            name for name in sorted(set().union(*facts)) if any(own.get(name) != facts[0].get(name) for own in facts)
        ]
        for engine, facts in by_name.items()
    }


def efficiency(curve: Sequence[Measured]) -> list[float]:
    """Return samples a second of each device over those on the fewest ranks of the curve."""
    first = curve[0].rate / curve[0].point.world_size
    return [one.rate / one.point.world_size / first for one in curve]
