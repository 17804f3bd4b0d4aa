"""Steps on numbers of nodes that nobody has measured: the cost model over engines and pieces, marked as projected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fmsci.config import ScalingSettings
from fmsci.errors import UserError, nearest
from fmsci.model.sizes import SIZES
from fmsci.scaling.cost import CostModel, Estimate, Link
from fmsci.scaling.fit import fit
from fmsci.scaling.limits import batch_floor, memory_bytes
from fmsci.scaling.measured import Measured, load_measured
from fmsci.scaling.points import Point
from fmsci.terminal import say, table


@dataclass(frozen=True)
class Row:
    """One number of nodes: the engine and accumulation with the shortest step that fits, and what it comes to.

    ``floor``: samples of a rank below which exchanging takes longer than computing; None where there is none.
    """

    nodes: int
    ranks: int
    batch: int
    engine: str
    accumulate: int
    step_s: float
    compute_s: float
    communication: float
    efficiency: float
    floor: int | None
    memory_bytes: int
    device_hours_per_million: float


@dataclass(frozen=True)
class Projection:
    """Tables by title, what they rest on, and the price of a device for an hour where it is known."""

    tables: dict[str, list[Row]]
    grounds: list[str]
    device_hour: float | None = None

    def document(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        tables = {title: [asdict(row) for row in rows] for title, rows in self.tables.items()}
        return {"projected": True, "grounds": self.grounds, "device_hour": self.device_hour, "tables": tables}


def project(
    settings: ScalingSettings, nodes: str, per_node: int, model: str | None, precision: str | None, batch: int | None
) -> Projection:
    """Return what the cost model of the measured points says of so many nodes with ``per_node`` ranks each.

    ``batch`` are samples of all ranks; without it those of the settings, weak and strong.

    Raises UserError where the points or the network do not tell enough.
    """
    counts = node_counts(nodes)
    measured = load_measured(settings)
    if not measured:
        raise UserError(
            f"a projection starts from measured points, and {settings.run} has none on {settings.grid} x "
            f"{settings.grid}: fmsci scaling CONFIG run on one device, or name the points.json of another run in "
            "'measured'"
        )
    cost = fit(measured, settings.network)
    _check_links(cost, max(counts), per_node)
    tables = {}
    for name in settings.models if model is None else (model,):
        for how in settings.precisions if precision is None else (precision,):
            known = _known(settings, cost, name, how)
            for kind, samples in _batches(settings, batch):
                what = "samples a rank" if kind == "weak" else "samples"
                title = f"{name} {how}, {kind}: {samples} {what}, {settings.grid} x {settings.grid}"
                tables[title] = list(_rows(known, cost, name, how, kind, samples, counts, per_node))
    return Projection(tables, _grounds(measured, cost), settings.device_hour)


def node_counts(text: str) -> list[int]:
    """Return the numbers in ``1..256`` (doubled from one to the next, and the last), ``1,2,16`` or ``8``."""
    first, dots, last = text.partition("..")
    try:
        if not dots:
            counts = [int(part) for part in text.split(",")]
        else:
            counts, end = [int(first)], int(last)
            while 0 < counts[-1] * 2 < end:
                counts.append(counts[-1] * 2)
            counts += [end] if end != counts[-1] else []
    except ValueError:
        counts = []
    if not counts or min(counts) < 1 or counts != sorted(set(counts)):
        raise UserError(f"--nodes is '{text}'; write 1..256, or rising numbers such as 1,2,16")
    return counts


def _batches(settings: ScalingSettings, batch: int | None) -> list[tuple[str, int]]:
    if batch is not None:
        return [("strong", batch)]
    return [("weak", samples) for samples in settings.weak] + [("strong", samples) for samples in settings.strong]


def _check_links(cost: CostModel, nodes: int, per_node: int) -> None:
    for name, link, needed in (("inside", cost.inside, per_node > 1), ("between", cost.between, nodes > 1)):
        if needed and link is None:
            where = "inside a node" if name == "inside" else "between nodes"
            raise UserError(
                f"nothing is known of the links {where}: measure points that use them, or assume something with "
                f"network.{name}.gbytes_s and network.{name}.latency_us"
            )


def _known(settings: ScalingSettings, cost: CostModel, model: str, precision: str) -> ScalingSettings:
    """Return the settings with those engines alone whose computing is measured. UserError where there is none."""
    if model not in SIZES:
        raise UserError(f"there is no model '{model}'{nearest(model, SIZES)}; there is {', '.join(SIZES)}")
    engines, missing = {}, {}
    for name, how in settings.engines.items():
        chosen = how.model_copy(update={"precision": precision})
        point = Point(1, model, name, chosen, 1, settings.grid, settings.coefficients)
        if cost.key(point) in cost.compute:
            engines[name] = how
        else:
            missing[name] = ", ".join((f"{model} in {precision}", *point.computing[2:]))
    if not engines:
        known = ", ".join(" ".join(key) for key in cost.compute)
        raise UserError(
            f"no step of {' or '.join(dict.fromkeys(missing.values()))} is measured on one device; measured: {known}"
        )
    for name, wanted in missing.items():
        say(f"engine {name} is left out: no step of {wanted} is measured on one device")
    return settings.model_copy(update={"engines": engines})


def _rows(
    settings: ScalingSettings,
    cost: CostModel,
    model: str,
    precision: str,
    kind: str,
    samples: int,
    counts: Sequence[int],
    per_node: int,
) -> Iterator[Row]:
    """Yield the best of each number of nodes.

    Efficiency is against one device with the same samples a rank (weak), or with all samples (strong); ZeRO can pass
    100%, as each rank then updates its part of the weights alone.
    """
    one = _best(settings, cost, model, precision, samples, 1, 1)
    if one is None:
        raise UserError(f"{model} in {precision} does not fit into {settings.memory_gib:g} GiB on one device")
    for nodes in counts:
        ranks = nodes * per_node
        batch = samples * ranks if kind == "weak" else samples
        if batch < ranks:
            return
        best = _best(settings, cost, model, precision, batch, ranks, nodes)
        assert best is not None  # it is cut further than on one device, never less
        point, found, memory = best
        alone = samples / one[1].step_s
        yield Row(
            nodes,
            ranks,
            batch,
            point.engine,
            point.how.accumulate,
            found.step_s,
            found.compute_s,
            found.communication,
            batch / found.step_s / ranks / alone,
            batch_floor(cost, point, nodes),
            memory,
            1e6 * found.step_s / batch * ranks / 3600,
        )


def _best(
    settings: ScalingSettings, cost: CostModel, model: str, precision: str, batch: int, ranks: int, nodes: int
) -> tuple[Point, Estimate, int] | None:
    """Return the point with the shortest step over all engines of the settings and pieces, of those that fit."""
    best: tuple[Point, Estimate, int] | None = None
    for engine, how in settings.engines.items():
        pieces = max(1, how.accumulate)
        while True:
            chosen = how.model_copy(update={"precision": precision, "accumulate": pieces})
            point = Point(ranks, model, engine, chosen, batch, settings.grid, settings.coefficients)
            memory = memory_bytes(point)
            fits = settings.memory_gib is None or memory <= settings.memory_gib * 2**30
            if fits or pieces >= point.local:
                break
            pieces *= 2
        if fits:
            found = cost.estimate(point, nodes)
            if best is None or found.step_s < best[1].step_s * (1 - 1e-9):
                best = point, found, memory
    return best


def _grounds(measured: Sequence[Measured], cost: CostModel) -> list[str]:
    devices = ", ".join(sorted({one.device for one in measured}))
    lines = [f"computing: fitted to {len(measured)} points measured on {devices}"]
    for where, link in (("inside a node", cost.inside), ("between nodes", cost.between)):
        if link is not None:
            lines.append(f"links {where}: {_told(link)}")
    if not any(one.point.how.kind == "zero" for one in measured):
        lines.append("DeepSpeed's own time in a step: not measured, counted as nothing")
    if cost.crowd:
        ranks = max(cost.crowd)
        lines.append(f"computing beside others: {cost.crowd[ranks]:.2f} times as long, as on {ranks} ranks")
    return lines


def _told(link: Link) -> str:
    speed = f"{1e-9 / link.byte_s:.3g} GB/s" if link.byte_s else "of no measurable time a byte"
    source = "fitted to measured points" if link.measured else "ASSUMED by the settings (network.*)"
    return f"{speed}, {1e6 * link.latency_s:.3g} us a message, overlap {link.overlap:.0%}, {source}"


def tell(projection: Projection) -> None:
    """Print a projection for people."""
    columns = ("nodes", "ranks", "batch", "engine", "pieces", "step ms", "efficiency", "exchange", "floor", "GiB")
    price = projection.device_hour
    for title, rows in projection.tables.items():
        shown = [
            (
                f"{row.nodes:,}",
                f"{row.ranks:,}",
                f"{row.batch:,}",
                row.engine,
                f"{row.accumulate}",
                f"{1e3 * row.step_s:.3g}",
                f"{row.efficiency:.0%}",
                f"{row.communication:.0%}",
                "none" if row.floor is None else f"{row.floor:,}",
                f"{row.memory_bytes / 2**30:.1f}",
                *(() if price is None else (f"{price * row.device_hours_per_million:.3g}",)),
            )
            for row in rows
        ]
        names = columns if price is None else (*columns, "cost per 1e6")
        table(f"PROJECTED, not measured: {title}", names, shown)
    for line in projection.grounds:
        say(line)
    say(
        "engine and pieces (engine.accumulate): the shortest step of those that fit. floor: samples of a rank below "
        "which exchanging takes longer than computing"
    )
