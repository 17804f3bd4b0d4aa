"""What stands in a report, in its order: what to know first, the answer, what it rests on."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator

from fmsci import __version__
from fmsci.config import StudySettings, dump_settings
from fmsci.figures import ErrorCurve, as_svg, error_curves, gain_lines
from fmsci.study.blocks import Block, Listing, Picture, Table, Text
from fmsci.study.examples import examples
from fmsci.study.found import Comparison, Curve, Found, Record
from fmsci.study.plan import Plan
from fmsci.study.recipe import recipe_curves, recipe_table
from fmsci.study.tables import (
    error_gain,
    error_table,
    law_table,
    mixture_table,
    rate_table,
    reach_table,
    run_table,
    zero_shot_table,
)
from fmsci.terminal import duration

TITLES = {
    "q1": "how many downstream samples does pretraining save?",
    "q2": "does the gain of pretraining grow with the model?",
    "q3": "how far from the pretraining data does it still help?",
    "q4": "does one model for all physics serve each of them?",
    "recipe": "which way of pretraining needs the fewest samples seen?",
}


def content(planned: Plan, found: Found) -> list[Block]:
    """Return the report of a study."""
    settings = planned.settings
    blocks: list[Block] = []
    if settings.study == "recipe":
        blocks += [Text(f"Models {', '.join(settings.models)}, each against the first."), *_notices(found)]
        blocks += [recipe_table(found), *recipe_curves(found)]
    else:
        blocks += [_introduction(settings), *_notices(found), *_edges(settings, found), *_unequal(found)]
        if settings.study == "q4":
            blocks.append(mixture_table(found, settings.samples))
        blocks += _curves(found)
        if settings.study in {"q2", "q3"}:
            blocks += _gains(settings, found)
        blocks += [error_table(found), zero_shot_table(found), reach_table(found, settings.targets), law_table(found)]
        blocks += examples(planned, found)
    records = [*found.pretraining, *found.records]
    total = sum(one.seconds for one in records)
    blocks += [
        Text(
            f"{len(records)} runs took {duration(total)} of training in all. Their curves, and a line for each "
            f"under HParams: tensorboard --logdir {settings.runs_folder}"
        )
    ]
    blocks += [run_table(records), rate_table(found)]
    if found.missing:
        blocks.append(
            Table(f"Missing ({len(found.missing)})", ("run",), [(name,) for name in found.missing], folded=True)
        )
    blocks.append(
        Listing(
            "Settings and versions",
            f"fmsci {__version__}, Python {platform.python_version()}\n{_made_with(records)}\n"
            f"{dump_settings(settings)}",
        )
    )
    return blocks


def _made_with(records: list[Record]) -> str:
    """Return a line for each pair of torch and device that runs were made with."""
    counted = Counter((one.torch, one.device_name) for one in records)
    return "".join(
        f"{count} runs with torch {version} on {name}\n" for (version, name), count in sorted(counted.items())
    )


def _introduction(settings: StudySettings) -> Text:
    rates = ", ".join(f"{rate:g}" for rate in settings.rates)
    chosen = f"chosen for each arm by validation error, out of {rates}" if rates else "that of the training settings"
    return Text(
        f"Models {', '.join(settings.models)}; tasks {', '.join(settings.tasks)}; {len(settings.seeds)} seed(s). At "
        "each number of samples both arms take the same optimizer steps on the same batches; the learning rate is "
        f"{chosen}."
    )


def _notices(found: Found) -> Iterator[Text]:
    if found.missing:
        yield Text(
            f"{len(found.missing)} results are missing; what follows rests on those that are there.", notice=True
        )
    if found.diverged:
        yield Text(f"{len(found.diverged)} runs diverged: {', '.join(found.diverged)}.", notice=True)
    if found.diverged_repeats:
        yield Text(
            f"{len(found.diverged_repeats)} repeats diverged at the rate that served their first seed: "
            f"{', '.join(found.diverged_repeats)}. The medians are over the seeds that did not, which flatters them.",
            notice=True,
        )
    unsettled = [one for one in found.records if one.chosen and one.unsettled]
    if unsettled:
        yield Text(
            f"In {len(unsettled)} of the runs that count, {_arms(unsettled)}, the validation error still fell in the "
            "last steps, by more than 2% over the last fifth: more steps may lower their errors. They are marked "
            "in the list of runs.",
            notice=True,
        )


def _unequal(found: Found) -> Iterator[Text]:
    """Say where the pretrained models took different numbers of steps: one may be better for that alone."""
    steps = {one.model: one.steps for one in found.pretraining}
    if len(set(steps.values())) > 1:
        told = ", ".join(f"{one.model} {one.steps:,} (samples seen {one.samples_seen:,})" for one in found.pretraining)
        yield Text(f"The pretrained models took different numbers of optimizer steps: {told}.", notice=True)


def _edges(settings: StudySettings, found: Found) -> Iterator[Text]:
    """Name the groups whose best rate is the first or last that was tried: another might have been better."""
    if len(settings.rates) < 2:
        return
    ends = {min(settings.rates): "smallest", max(settings.rates): "largest"}
    for rate, end in ends.items():
        swept = [one for one in found.records if one.chosen and one.seed == settings.seeds[0] and one.rate == rate]
        if swept:
            which = ", ".join(f"{one.task} {one.arm} {one.model} {one.samples:,}" for one in swept)
            yield Text(
                f"The {end} learning rate that was tried, {rate:g}, was best in {len(swept)} cases, {_arms(swept)}: "
                f"one beyond it may be better ({which}).",
                notice=True,
            )


def _arms(records: list[Record]) -> str:
    tuned = sum(one.arm == "finetune" for one in records)
    return f"{tuned} fine-tuned and {len(records) - tuned} from scratch"


def _curves(found: Found) -> Iterator[Picture]:
    tasks = list(dict.fromkeys(one.task for one in found.comparisons))
    for task in tasks:
        mine = [one for one in found.comparisons if one.task == task]
        labels = list(dict.fromkeys(one.label for one in mine))
        lines = [
            ErrorCurve(_name("fine-tuned", one.model, mine), _band(one.finetune), at) for at, one in enumerate(mine)
        ]
        levels = {
            _name("zero-shot", one.model, mine): (one.zero_shot, at)
            for at, one in enumerate(mine)
            if one.zero_shot is not None
        }
        for label in labels:
            at, one = next((at, one) for at, one in enumerate(mine) if one.label == label)
            colour = at if len(labels) == len(mine) > 1 else len(mine)
            name = "from scratch" if len(labels) == 1 else f"from scratch, {label}"
            lines.append(ErrorCurve(name, _band(one.scratch), colour, dashed=True))
        drawn = [line for line in lines if line.points]
        if drawn:
            title = "Fine-tuned against from scratch" + (f", {task}" if len(tasks) > 1 else "")
            file = f"errors-{task}.svg" if len(tasks) > 1 else "errors.svg"
            caption = f"Error against samples on {task}: median and range over the seeds."
            yield Picture(file, caption, "svg+xml", as_svg(error_curves(drawn, title, levels)))


def _name(what: str, model: str, shown: list[Comparison]) -> str:
    return what if len(shown) == 1 else f"{what}, {model}"


def _band(curve: Curve) -> list[tuple[int, float, float, float]]:
    return [
        (point.samples, min(point.errors), point.median, max(point.errors))
        for point in curve.points
        if point.median is not None
    ]


def _gains(settings: StudySettings, found: Found) -> Iterator[Picture]:
    """Gain over the models of each task (q2), or over the tasks of each model (q3)."""
    by_size = settings.study == "q2"
    for key in dict.fromkeys(one.task if by_size else one.model for one in found.comparisons):
        mine = [one for one in found.comparisons if key == (one.task if by_size else one.model)]
        ticks = [one.model if by_size else one.task for one in mine]
        lines = {f"{count:,}": [error_gain(one, at) for one in mine] for at, count in enumerate(settings.samples)}
        shown = {name: values for name, values in lines.items() if any(value is not None for value in values)}
        if shown:
            across, what = ("model", "size") if by_size else ("task", "shift")
            title = f"Gain against {what}, {key}"
            picture = as_svg(gain_lines(shown, ticks, across, title))
            yield Picture(f"gain-{key}.svg", f"{title}: error from scratch over error fine-tuned.", "svg+xml", picture)
