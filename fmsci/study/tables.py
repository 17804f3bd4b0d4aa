"""The tables of a report, from what was found. A cell without a result says so."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fmsci.study.blocks import MISSING, Table
from fmsci.study.fit import Estimate, at_once, gain, is_bound, power_law, reach
from fmsci.study.found import Comparison, Curve, Found, Point, Record
from fmsci.terminal import duration


def error_table(found: Found) -> Table:
    """Median test errors of both arms at each number of samples."""
    several = len({(one.task, one.model) for one in found.comparisons}) > 1
    columns = ("samples", "fine-tuned error", "scratch error", "ratio")
    rows = []
    points = [pair for one in found.comparisons for pair in zip(one.finetune.points, one.scratch.points, strict=True)]
    for row, (tuned, scratch) in zip(found.rows, points, strict=True):
        cells = (f"{row.samples:,}", _median(tuned), _median(scratch), _number(row.ratio, "{:.2f}"))
        rows.append((row.task, row.model, *cells) if several else cells)
    return Table(
        "Errors",
        ("task", "model", *columns) if several else columns,
        rows,
        "Mean relative L2 error over the whole test split, median over the seeds, at the learning rate with the "
        "smallest validation error.",
    )


def zero_shot_table(found: Found) -> Table:
    """The error of each pretrained model on each task as it is."""
    rows = [(one.task, one.model, _error(one.zero_shot)) for one in found.comparisons]
    return Table("Zero-shot errors", ("task", "model", "error"), rows, "Pretrained models without any fine-tuning.")


def reach_table(found: Found, targets: Sequence[float]) -> Table:
    """Samples that each arm needs for the same error: the targets, and each error that training from scratch has."""
    rows = []
    for one in found.comparisons:
        levels = [(error, "target") for error in targets]
        levels += [(error, f"scratch at {samples:,}") for samples, error in one.scratch.medians]
        for error, why in levels:
            scratch, tuned = _reach(one.scratch, error), _reach(one.finetune, error)
            gained = gain(one.finetune, one.scratch, error)
            least = is_bound(one.finetune, one.scratch, error)
            shown = "-" if gained is None else _least(gained) if least else _interval(gained, "{:.3g}x")
            rows.append((one.task, one.model, _error(error), why, tuned, scratch, shown))
    return Table(
        "Samples needed to reach an error",
        ("task", "model", "error", "which is", "fine-tuned", "scratch", "gain"),
        rows,
        "Interpolated in logarithms on the median curve, in brackets the interval from 5% to 95% of a bootstrap over "
        "the seeds. Nothing is extrapolated: where the first number of samples reaches the error already it is an "
        "upper bound, marked <=. Gain: samples from scratch over samples fine-tuned; >= where that is a bound, with "
        "the lower end of its interval alone. An end of an interval is more, fewer or 0x where more than 5% of the "
        "draws leave that side open.",
    )


def law_table(found: Found) -> Table:
    """The power law error = a N^-b through each curve."""
    rows = []
    for one in found.comparisons:
        for curve in (one.finetune, one.scratch):
            law = power_law(curve.medians)
            cells = ("-", "-") if law is None else (f"{law.a:.3g}", f"{law.b:.2f}")
            rows.append((one.task, curve.arm, curve.model, *cells))
    columns = ("task", "arm", "model", "a", "b")
    unique = list(dict.fromkeys(rows))  # from scratch is shared by models of one architecture
    return Table("Power laws", columns, unique, "error = a N^-b, least squares in logarithms over all N.", folded=True)


def mixture_table(found: Found, samples: Sequence[int]) -> Table:
    """On each task every model beside the others: zero-shot, then fine-tuned at each number of samples."""
    steps = {one.model: one.steps for one in found.pretraining}
    rows = []
    for one in found.comparisons:
        trained = f"{steps[one.model]:,}" if one.model in steps else MISSING
        rows.append((one.task, one.model, trained, _error(one.zero_shot), *map(_median, one.finetune.points)))
    seen = dict.fromkeys((one.task, one.label) for one in found.comparisons)
    curves = {(one.task, one.label): one.scratch for one in found.comparisons}
    rows += [(task, f"scratch {label}", "-", "-", *map(_median, curves[task, label].points)) for task, label in seen]
    rows.sort(key=lambda row: [one.task for one in found.comparisons].index(row[0]))
    return Table(
        "Mixed physics against single physics",
        ("task", "model", "pretraining steps", "zero-shot", *map("{:,}".format, samples)),
        rows,
    )


def rate_table(found: Found) -> Table:
    """Validation errors at each learning rate: how the rate was chosen, in both arms alike."""
    rows = [
        (
            one.task,
            one.arm,
            one.model,
            f"{one.samples:,}",
            "default" if one.rate is None else f"{one.rate:g}",
            _error(one.valid),
            "yes" if one.chosen else "",
        )
        for one in found.records
    ]
    columns = ("task", "arm", "model", "samples", "rate", "validation error", "chosen")
    return Table(
        "Learning rates", columns, rows, "Swept on the first seed; the test split has no part in it.", folded=True
    )


def run_table(records: Sequence[Record]) -> Table:
    """Every finished run: what it saw, where it ran and for how long."""
    rows = [
        (
            one.folder.rpartition("/")[2],
            f"{one.steps:,}",
            f"{one.samples_seen:,}",
            f"{one.best_step:,}" + (" (still falling)" if one.unsettled else ""),
            _error(one.valid),
            _error(one.test),
            duration(one.seconds),
            f"{one.host}, {one.device}" + (f" x {one.processes}" if one.processes > 1 else ""),
        )
        for one in records
    ]
    columns = ("run", "steps", "samples seen", "best step", "validation error", "test error", "time", "where")
    return Table(f"What ran ({len(rows)} runs)", columns, rows, folded=True)


def error_gain(one: Comparison, at: int) -> float | None:
    """Return error(scratch) / error(fine-tuned) of a comparison at its ``at``-th number of samples."""
    tuned, scratch = one.finetune.points[at].median, one.scratch.points[at].median
    return None if tuned is None or scratch is None else scratch / tuned


def _reach(curve: Curve, error: float) -> str:
    if not curve.medians:
        return MISSING
    needed, form = reach(curve, error), "{:,.0f}"
    if not at_once(curve, error):
        return _interval(needed, form, least="fewer")
    text = f"<= {form.format(needed.value)}"
    return text if needed.high == needed.value else f"{text} (to {_end(needed.high, form)})"


def _interval(value: Estimate, form: str, least: str | None = None) -> str:
    """Return a value with its interval; ``least`` stands for a lower end that is open."""
    text = form.format(value.value) if math.isfinite(value.value) else "not reached"
    if value.low == value.high == value.value:
        return text
    low = least if least is not None and value.low == 0 else _end(value.low, form)
    return f"{text} ({low} to {_end(value.high, form)})"


def _end(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else "more"


def _least(value: Estimate) -> str:
    """Return a bound with the lower end of its interval: the upper one is open."""
    text = f">= {value.value:.3g}x"
    return text if value.low == value.value else f"{text} (from {value.low:.3g}x)"


def _median(point: Point) -> str:
    text = _error(point.median)
    return text if not 0 < len(point.errors) < point.wanted else f"{text} ({len(point.errors)} of {point.wanted} seeds)"


def _error(value: float | None) -> str:
    return _number(value, "{:.4f}" if value is None or value >= 0.001 else "{:.2e}")


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else form.format(value)
