"""What a scaling run came to: tables on the terminal; report.md, report.json, points.json, figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fmsci.config import ScalingSettings
from fmsci.errors import UserError
from fmsci.figures import as_svg, save_figure
from fmsci.files import publish_file, write_json, write_text
from fmsci.scaling.figures import ScalingCurve, projection_scatter, scaling_lines
from fmsci.scaling.fit import fit
from fmsci.scaling.left_out import Foretold, left_out
from fmsci.scaling.measured import Measured, efficiency, load_measured, series
from fmsci.scaling.points import missing, report_path
from fmsci.study.blocks import Block, Picture, Table, Text, as_markdown
from fmsci.terminal import say, table

COLUMNS = (
    "ranks",
    "batch",
    "step ms",
    "low",
    "high",
    "samples/s",
    "efficiency",
    "exchange",
    "data wait",
    "device-h per 1e6",
)
MOST_CURVES = 10
WITHIN = 0.2
"""A projected step is to be so close to the measured one."""


def report(settings: ScalingSettings) -> dict[str, Any]:
    """Print and write what is measured; return the document as it stands in ``report.json``.

    Raises UserError where nothing is measured yet.
    """
    measured = load_measured(settings)
    if not measured:
        grid = f"{settings.grid} x {settings.grid}"
        raise UserError(f"no point of {settings.run} on {grid} is measured; start with fmsci scaling CONFIG run")
    curves = series(measured, settings.weak, settings.strong)
    blocks: list[Block] = [Text(_where(measured))]
    left = len(missing(settings))
    if left:
        blocks.append(Text(f"{left} points are not measured yet.", notice=True))
    tables = [_table(title, curve, settings.device_hour) for title, curve in curves.items()]
    blocks += tables
    if tables:
        rows = [(one.title if first == 0 else "", *row) for one in tables for first, row in enumerate(one.rows)]
        names = ("curve", *tables[0].columns)
        shown = [index for index, name in enumerate(names) if name not in {"low", "high", "device-h per 1e6"}]
        say(_where(measured))
        table(f"{settings.run}", [names[index] for index in shown], [[row[index] for index in shown] for row in rows])
    blocks += _pictures(settings, curves)
    checked = left_out(measured, settings.network)
    foretold = {name: _errors(steps) for name, steps in checked.items()}
    if foretold:
        blocks += _check(settings, checked, foretold)
    model = fit(measured, settings.network).as_dict()
    document = {
        "run": str(settings.run),
        "curves": {
            title: [_row(one, share) for one, share in _with_efficiency(curve)] for title, curve in curves.items()
        },
        "left_out": foretold,
        "model": model,
        "missing": left,
    }
    write_json(settings.run / "points.json", [asdict(one) | {"point": one.point.facts()} for one in measured])
    write_json(settings.run / "model.json", model)
    write_text(settings.run / "report.md", as_markdown(f"Scaling of {settings.run.name}", blocks))
    write_json(report_path(settings.run), document)
    for name, facts in foretold.items():
        say(
            f"{name} left out: {facts['points']} steps foretold, error {facts['median_error']:.0%} (median), "
            f"{facts['largest_error']:.0%} (largest)"
        )
    say(f"report {settings.run / 'report.md'}; next: fmsci scaling CONFIG plan --nodes 1..64 projects to more nodes")
    return document


def _errors(steps: Sequence[Foretold]) -> dict[str, float]:
    errors = [abs(step.projected_s / step.one.step_s - 1) for step in steps]
    return {
        "points": len(steps),
        "median_error": statistics.median(errors),
        "largest_error": max(errors),
        "within": sum(error <= WITHIN for error in errors),
        "largest_error_of_exchange_only": max(abs(step.exchange_only_s / step.one.step_s - 1) for step in steps),
    }


def _with_efficiency(curve: Sequence[Measured]) -> list[tuple[Measured, float]]:
    return list(zip(curve, efficiency(curve), strict=True))


def _row(one: Measured, share: float) -> dict[str, Any]:
    return {
        "name": one.point.name,
        "ranks": one.point.world_size,
        "nodes": one.nodes,
        "batch": one.point.batch,
        "step_s": one.step_s,
        "low_s": one.low_s,
        "high_s": one.high_s,
        "samples_per_s": one.rate,
        "efficiency": share,
        "communication": one.communication,
        "data_wait": one.wait_s / one.step_s,
        "device_hours_per_million": one.device_hours,
    }


def _table(title: str, curve: Sequence[Measured], price: float | None) -> Table:
    rows = [
        (
            f"{one.point.world_size}",
            f"{one.point.batch}",
            f"{1e3 * one.step_s:.3g}",
            f"{1e3 * one.low_s:.3g}",
            f"{1e3 * one.high_s:.3g}",
            f"{one.rate:,.4g}",
            f"{share:.0%}",
            f"{one.communication:.0%}",
            f"{one.wait_s / one.step_s:.1%}",
            f"{one.device_hours:.3g}",
            *(() if price is None else (f"{price * one.device_hours:.3g}",)),
        )
        for one, share in _with_efficiency(curve)
    ]
    return Table(title, COLUMNS if price is None else (*COLUMNS, "cost per 1e6"), rows)


def _where(measured: Sequence[Measured]) -> str:
    devices = ", ".join(sorted({one.device for one in measured}))
    return (
        f"{len(measured)} points on {devices}. A step is the median over the repeats, of the slowest rank, after a "
        "warm-up; exchange is what it takes longer than the same step without any exchange, on all ranks at once."
    )


def _pictures(settings: ScalingSettings, curves: dict[str, list[Measured]]) -> list[Block]:
    """Draw weak and strong scaling, the curves that have at least two points."""
    blocks: list[Block] = []
    for kind in ("weak", "strong"):
        lines = [
            ScalingCurve(
                title.partition(": ")[2],
                [_bar(one) for one in curve],
            )
            for title, curve in curves.items()
            if title.startswith(kind) and len(curve) > 1
        ]
        for number, start in enumerate(range(0, len(lines), MOST_CURVES)):
            stem = kind if number == 0 else f"{kind}-{number + 1}"
            figure = scaling_lines(lines[start : start + MOST_CURVES], f"{kind} scaling")
            save_figure(figure, settings.run / f"{stem}.png")
            blocks.append(_svg(settings, f"{stem}.svg", as_svg(figure), f"{kind} scaling; bars: all repeats"))
    return blocks


def _bar(one: Measured) -> tuple[int, float, float, float]:
    """Return (ranks, samples a second of the slowest repeat, of the median, of the fastest)."""
    return one.point.world_size, one.point.batch / one.high_s, one.rate, one.point.batch / one.low_s


def _check(
    settings: ScalingSettings, checked: dict[str, list[Foretold]], foretold: dict[str, dict[str, float]]
) -> list[Block]:
    rows = [
        (
            name,
            f"{facts['points']}",
            f"{facts['median_error']:.0%}",
            f"{facts['largest_error']:.0%}",
            f"{facts['within']}",
            f"{facts['largest_error_of_exchange_only']:.0%}",
        )
        for name, facts in foretold.items()
    ]
    note = (
        "The links of the cost model are fitted to the other points; then the steps left out are projected. Exchange "
        "only: the largest error where the computing is as those ranks did it, at the same time, without any exchange."
    )
    columns = ("left out", "steps", "median error", "largest", f"within {WITHIN:.0%}", "exchange only")
    groups = {name: [(step.one.step_s, step.projected_s) for step in steps] for name, steps in checked.items()}
    figure = projection_scatter(groups, WITHIN, "steps that the model was not fitted to")
    save_figure(figure, settings.run / "projection.png")
    return [
        Table("Projection of what was left out", columns, rows, note),
        _svg(settings, "projection.svg", as_svg(figure), f"measured and projected steps; band: {WITHIN:.0%}"),
    ]


def _svg(settings: ScalingSettings, name: str, content: bytes, caption: str) -> Picture:
    with publish_file(settings.run / name) as temporary:
        temporary.write_bytes(content)
    return Picture(name, caption, "svg+xml", content)
