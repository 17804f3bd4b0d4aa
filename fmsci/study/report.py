"""The answer of a study: a table on the terminal; report.html, report.md, results.csv, table.json and the pictures."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from fmsci.config import StudySettings
from fmsci.errors import UserError
from fmsci.files import publish_file, write_json, write_text
from fmsci.study.blocks import Picture, as_html, as_markdown
from fmsci.study.collect import collect
from fmsci.study.content import TITLES, content
from fmsci.study.fit import Estimate, gain, is_bound
from fmsci.study.found import Found, Record
from fmsci.study.plan import plan
from fmsci.study.recipe import recipe_table, recipes
from fmsci.study.reported import TABLE
from fmsci.study.tables import error_table
from fmsci.terminal import say, table


def report(settings: StudySettings) -> dict[str, Any]:
    """Print and write what is finished; return the table as it stands in ``table.json``.

    Raises UserError where neither a run nor a zero-shot error is there yet.
    """
    planned = plan(settings)
    found = collect(planned)
    zero_shot = [one for one in found.comparisons if one.zero_shot is not None]
    if not (found.pretraining or found.records or zero_shot):
        raise UserError(f"no run of {settings.run} is finished; start them with fmsci study CONFIG run")
    title = TITLES[settings.study]
    shown = recipe_table(found) if settings.study == "recipe" else error_table(found)
    table(f"{settings.study.upper()}: {title} ({settings.run})", shown.columns, shown.rows)
    for one in zero_shot:
        say(f"zero-shot: {one.model} has the error {one.zero_shot:.4f} on {one.task} without any fine-tuning")
    if found.missing:
        say(f"{len(found.missing)} runs are missing; the report says which")
    blocks = content(planned, found)
    document = _document(settings, found)
    folder = settings.run
    for block in blocks:
        if isinstance(block, Picture):
            _write(folder / block.file, block.content)
    write_text(folder / "results.csv", _csv([*found.pretraining, *found.records]))
    write_text(folder / "report.md", as_markdown(f"{settings.study.upper()}: {title}", blocks))
    write_text(folder / "report.html", as_html(f"{settings.study.upper()}: {title}", blocks))
    write_json(folder / TABLE, document)
    say(f"report {folder / 'report.html'}, figures {folder / 'results.csv'}")
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


def _document(settings: StudySettings, found: Found) -> dict[str, Any]:
    return {
        "study": settings.study,
        "rows": [asdict(row) | {"ratio": row.ratio} for row in found.rows],
        "zero_shot": [{"task": one.task, "model": one.model, "error": one.zero_shot} for one in found.comparisons],
        "gains": [
            {
                "task": one.task,
                "model": one.model,
                "error": error,
                "at_least": is_bound(one.finetune, one.scratch, error),
            }
            | _estimate(gain(one.finetune, one.scratch, error))
            for one in found.comparisons
            for _, error in one.scratch.medians
        ],
        "recipes": [asdict(one) for one in recipes(found)] if settings.study == "recipe" else [],
        "missing": list(found.missing),
        "diverged": list(found.diverged),
        "diverged_repeats": list(found.diverged_repeats),
    }


def _estimate(value: Estimate | None) -> dict[str, float | None]:
    """Return an estimate for JSON, which knows no infinity."""
    if value is None:
        return {"gain": None, "low": None, "high": None}
    return {
        name: number if math.isfinite(number) else None
        for name, number in (("gain", value.value), ("low", value.low), ("high", value.high))
    }


def _csv(records: list[Record]) -> str:
    stream = io.StringIO()
    names = [field.name for field in fields(Record)]
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows([asdict(record) for record in records])
    return stream.getvalue()


def _write(path: Path, content: bytes) -> None:
    with publish_file(path) as temporary:
        temporary.write_bytes(content)
