"""The answer of a study: a table on the terminal, ``table.json``, ``report.md`` and the plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fmsci.config import StudySettings
from fmsci.errors import UserError
from fmsci.figures import error_curves, save_figure
from fmsci.files import write_json, write_text
from fmsci.study.collect import Row, Table, collect
from fmsci.terminal import say, table

COLUMNS = ("samples", "fine-tuned error", "scratch error", "ratio")


def report(settings: StudySettings) -> dict[str, Any]:
    """Print and write the table and the plot of what is finished; return the table.

    Raises UserError where nothing is finished yet.
    """
    found = collect(settings)
    if all(row.finetuned is None and row.scratch is None for row in found.rows):
        raise UserError(f"no run of {settings.run} is finished; start them with fmsci study CONFIG run")
    table(f"Q1: what pretraining saves ({settings.run})", COLUMNS, [_cells(row) for row in found.rows])
    if found.zero_shot is not None:
        say(f"zero-shot: the pretrained model without fine-tuning has error {found.zero_shot:.4f}")
    document = {
        "study": settings.study,
        "zero_shot": found.zero_shot,
        "rows": [
            {"samples": row.samples, "finetuned": row.finetuned, "scratch": row.scratch, "ratio": row.ratio}
            for row in found.rows
        ],
    }
    write_json(settings.run / "table.json", document)
    write_text(settings.run / "report.md", _markdown(found))
    plot = settings.run / "errors.png"
    _plot(found, plot)
    say(f"report {settings.run / 'report.md'}, plot {plot}")
    return document


def expectation(settings: StudySettings, document: dict[str, Any]) -> str | None:
    """Return the sentence that says how the study missed ``ratio_below``, or None where it was met."""
    if settings.ratio_below is None:
        return None
    for row in document["rows"]:
        if row["ratio"] is None:
            return f"the runs with {row['samples']} samples are not finished"
        if not row["ratio"] < settings.ratio_below:
            return (
                f"with {row['samples']} samples error(fine-tuned) / error(scratch) is {row['ratio']:.3f}, "
                f"not below {settings.ratio_below:g}"
            )
    return None


def _cells(row: Row) -> tuple[str, ...]:
    values = [f"{value:.4f}" if value is not None else "missing" for value in (row.finetuned, row.scratch)]
    return (f"{row.samples:,}", *values, f"{row.ratio:.2f}" if row.ratio is not None else "missing")


def _markdown(found: Table) -> str:
    lines = ["# Q1: how many downstream samples does pretraining save?", "", "| " + " | ".join(COLUMNS) + " |"]
    lines.append("|---" * len(COLUMNS) + "|")
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in found.rows]
    if found.zero_shot is not None:
        lines += ["", f"Zero-shot error of the pretrained model: {found.zero_shot:.4f}."]
    lines += ["", "Errors are mean relative L2 over the whole downstream test split.", "", "![errors](errors.png)", ""]
    return "\n".join(lines)


def _plot(found: Table, path: Path) -> None:
    arms = {"from scratch": "scratch", "fine-tuned": "finetuned"}
    curves = {
        label: [(row.samples, value) for row in found.rows if (value := getattr(row, field)) is not None]
        for label, field in arms.items()
    }
    levels = {} if found.zero_shot is None else {"zero-shot": found.zero_shot}
    save_figure(error_curves(curves, "Fine-tuned against from scratch", levels), path)
