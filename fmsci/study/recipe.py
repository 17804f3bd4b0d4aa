"""Ways of pretraining against each other: the first is the reference, the others should need fewer samples seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fmsci.figures import as_svg, training_curves
from fmsci.study.blocks import MISSING, Picture, Table
from fmsci.study.collect import validation_curve
from fmsci.study.found import Found, Record
from fmsci.terminal import duration


@dataclass(frozen=True)
class Recipe:
    """A finished pretraining beside the reference."""

    model: str
    samples_seen: int
    steps: int
    valid: float
    test: float
    seconds: float
    reached: int | None
    """Samples seen at the first validation with at most the reference's best error; None where none was."""
    share: float | None
    """``reached`` over all samples that the reference saw."""


def recipes(found: Found) -> list[Recipe]:
    """Return the recipes that are finished, the reference first; empty where it is not."""
    there = {one.model: one for one in found.pretraining}
    reference = there.get(found.reference)
    if reference is None:
        return []
    return [_against(one, reference) for one in found.pretraining]


def _against(one: Record, reference: Record) -> Recipe:
    curve = _curve(one)
    reached = next((seen for seen, error in curve if error <= reference.valid), None)
    share = None if reached is None else reached / reference.samples_seen
    return Recipe(one.model, one.samples_seen, one.steps, one.valid, one.test, one.seconds, reached, share)


def _curve(one: Record) -> list[tuple[int, float]]:
    """Return (samples seen, validation error) of a run."""
    each = one.samples_seen / one.steps  # the last batch of an epoch may be shorter
    return [(round(step * each), error) for step, error in validation_curve(Path(one.folder))]


def recipe_table(found: Found) -> Table:
    """What each recipe reached, and how soon it was where the reference ended."""
    rows: list[tuple[str, ...]] = [
        (
            one.model,
            f"{one.samples_seen:,}",
            f"{one.steps:,}",
            f"{one.valid:.4f}",
            f"{one.test:.4f}",
            "not reached" if one.reached is None else f"{one.reached:,}",
            "-" if one.share is None else f"{one.share:.0%}",
            duration(one.seconds),
        )
        for one in recipes(found)
    ]
    if not rows:
        rows = [(found.reference, *[MISSING] * 7)]
    columns = ("recipe", "samples seen", "steps", "validation error", "test error", "reached after", "of", "time")
    return Table(
        "Recipes",
        columns,
        rows,
        f"Reached after: samples seen at the first validation that is at most the best of {found.reference}; of: "
        "their share of all that it saw. A recipe with at most 50% there needs at most half. The learning rate "
        "falls to 0 at a run's own end: a run of half the samples says more than the middle of a longer one.",
    )


def recipe_curves(found: Found) -> Iterator[Picture]:
    """Validation error against samples seen."""
    lines = {one.model: [point for point in _curve(one) if point[0]] for one in found.pretraining}
    drawn = {name: points for name, points in lines.items() if points}
    if drawn:
        picture = as_svg(training_curves(drawn, "Validation error while pretraining"))
        yield Picture("recipes.svg", "Validation error against samples seen.", "svg+xml", picture)
