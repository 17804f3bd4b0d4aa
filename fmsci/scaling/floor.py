"""What a training run's dry run tells of its local batch: below which size its ranks would mostly exchange."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fmsci.config import ScalingSettings, TrainSettings, load_settings
from fmsci.errors import UserError
from fmsci.model.sizes import SIZES, Architecture, architecture
from fmsci.scaling.cost import CostModel
from fmsci.scaling.fit import fit
from fmsci.scaling.limits import batch_floor
from fmsci.scaling.measured import Measured, load_measured
from fmsci.scaling.points import Point
from fmsci.terminal import warn

SOURCE = Path("configs/scaling/h100.yaml")
"""The settings of the cost model that comes with the program: steps measured on one kind of device, and its links.

Looked for in the current folder."""


def local_floor(
    settings: TrainSettings, facts: dict[str, Any], device: str, per_node: int, source: Path = SOURCE
) -> tuple[str, str] | None:
    """Return the row (fact, value) of the local batch and its floor; None where nothing measured fits the run.

    ``facts`` are those of :func:`fmsci.train.dry_run.dry_run`; ``device`` is the name of the GPU here, of which a node
    has ``per_node``. What was measured fits where device, size, grid and precision are those of the run.
    """
    ranks, engine = facts["world_size"], settings.engine
    size = _size_of(facts)
    asks_for_other_kernels = engine.recompute or facts["transform"] != "dft"
    if ranks == 1 or size is None or asks_for_other_kernels or not source.is_file():
        return None
    try:
        chosen = load_settings(ScalingSettings, source)
        known = load_measured(chosen)
    except UserError as error:  # what the run itself asks for is told all the same
        warn(f"no floor of the local batch is told: {error}")
        return None
    measured = [one for one in known if _fits(one, device, size, facts["grid"], engine.precision)]
    if not measured:
        return None
    cost, nodes = fit(measured, chosen.network), -(-ranks // per_node)
    point = Point(ranks, size, engine.kind, engine, ranks, facts["grid"], facts["in_channels"] - 1)
    try:
        floor = batch_floor(cost, point, nodes)
    except KeyError:  # nothing is known of these links
        return None
    where = f"projected from {source}, {device}, {nodes} node(s), links {_links(cost, nodes)}"
    local = f"{facts['local_batch_largest']} of a rank"
    if floor is None:
        return "local batch and its floor", f"{local}; the exchange takes longer than computing at any size ({where})"
    if floor == 1:
        return "local batch and its floor", f"{local}; no floor: computing takes longer than the exchange ({where})"
    return "local batch and its floor", f"{local}; below {floor} the exchange takes longer than computing ({where})"


def _size_of(facts: dict[str, Any]) -> str | None:
    """Return the name of the model's size, None where it has none."""
    own = Architecture(facts["in_channels"], facts["width"], facts["modes"], facts["layers"])
    return next((name for name in SIZES if architecture(own.in_channels, name) == own), None)


def _fits(one: Measured, device: str, size: str, grid: int, precision: str) -> bool:
    point = one.point
    return (one.device, point.model, point.grid, point.how.precision) == (device, size, grid, precision)


def _links(cost: CostModel, nodes: int) -> str:
    link = cost.between if nodes > 1 else cost.inside
    return "measured" if link is not None and link.measured else "ASSUMED"
