"""Which points a scaling run measures: pure functions of the settings, and the file of each point's result."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmsci.config import ScalingSettings
from fmsci.config.sections import EngineSettings
from fmsci.dataset.order import share
from fmsci.engine.replay_rule import numbers_of_step, replays
from fmsci.model.sizes import Architecture, architecture

REPLAYED = "replayed"
"""Among what computing depends on: a replay starts its kernels."""

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
    def computing(self) -> tuple[str, ...]:
        """What the time of its computing depends on beside samples and grid: model, precision, what else is unusual."""
        unusual = [] if self.shape.choose_transform(self.how.transform) == "dft" else ["fft"]
        if self.how.recompute:
            unusual.append(f"recompute {self.how.recompute}")
        return self.model, self.how.precision, *unusual

    @property
    def replayed(self) -> bool:
        """Whether several GPUs would replay its steps."""
        return replays(self.how, 2, "cuda", numbers_of_step(self.shape, self.local, self.grid))

    @property
    def variant(self) -> dict[str, Any]:
        """All that may be different where model, precision, engine's name, ranks, batch and grid are the same."""
        # without defaults: a setting that a later version adds does not rename what is measured
        how = self.how.model_dump(mode="json", exclude=UNTIMED | {"precision"}, exclude_defaults=True)
        return how | {"coefficients": self.coefficients, "data": self.data or "in memory"}

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
        """Return the point for JSON; :func:`fmsci.scaling.measured.measured_from` reads it back."""
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
