"""Which fields a report shows: of a few tasks, near and far, from one model, at a middle number of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fmsci.evaluation import evaluation_path
from fmsci.study.blocks import Picture
from fmsci.study.downstream import Group
from fmsci.study.found import Found, Record
from fmsci.study.models import Model
from fmsci.study.plan import Plan, zero_shot_path

MOST = 3
"""Tasks whose fields are shown."""


def shown(planned: Plan) -> list[tuple[str, Model]]:
    """Return the tasks whose fields are shown, the first and the last among them, each with a model.

    That is the mixture's where one is compared on the task (q4 asks about it), else the first.
    """
    tasks = list(planned.settings.tasks)
    if len(tasks) > MOST:
        tasks = [tasks[at * (len(tasks) - 1) // (MOST - 1)] for at in range(MOST)]
    found = []
    for task in tasks:
        models = [model for model in planned.models if task in model.tasks]
        if models:
            found.append((task, next((model for model in models if model.mixed), models[0])))
    return found


def middle(samples: Sequence[int]) -> int:
    """Return the number of samples at which fields are shown."""
    return samples[len(samples) // 2]


def pictures(planned: Plan) -> list[Path]:
    """Return the files that a report of the whole study takes its fields from, whichever rate is chosen."""
    found = []
    for task, model in shown(planned):
        found.append(_zero_shot(planned, task, model))
        groups = [one for one in _groups(planned, task, model) if one.samples == middle(planned.settings.samples)]
        found += [run.evaluation.with_suffix(".png") for group in groups for run in group.sweep]
    return found


def examples(planned: Plan, found: Found) -> Iterator[Picture]:
    """Yield fields as they are: zero-shot, fine-tuned and from scratch, nearest to the middle number of samples."""
    for task, model in shown(planned):
        zero = _zero_shot(planned, task, model)
        if zero.exists():
            yield _fields(zero, f"fields-{task}-zero-shot.png", f"{task}: {model.name} without fine-tuning")
        for arm in ("finetune", "scratch"):
            groups = [group for group in _groups(planned, task, model) if group.arm == arm]
            record = _nearest(planned, found, groups)
            picture = None if record is None else _picture(planned, record)
            if record is not None and picture is not None and picture.exists():
                words = "fine-tuned on" if arm == "finetune" else "from scratch on"
                caption = f"{task}: {record.model}, {words} {record.samples:,} samples"
                yield _fields(picture, f"fields-{task}-{arm}.png", caption)


def _groups(planned: Plan, task: str, model: Model) -> list[Group]:
    filed = {("finetune", model.name), ("scratch", model.label)}
    return [group for group in planned.groups if group.task == task and (group.arm, group.model) in filed]


def _nearest(planned: Plan, found: Found, groups: Sequence[Group]) -> Record | None:
    """Return the run that counts, of the first seed, whose number of samples is nearest to the middle one."""
    settings = planned.settings
    filed = {(group.task, group.arm, group.model) for group in groups}
    there = [
        one
        for one in found.records
        if one.chosen and one.seed == settings.seeds[0] and (one.task, one.arm, one.model) in filed
    ]
    at = settings.samples.index(middle(settings.samples))
    return min(there, key=lambda one: abs(settings.samples.index(one.samples) - at), default=None)


def _picture(planned: Plan, record: Record) -> Path:
    data = planned.settings.tasks[record.task]
    return evaluation_path(Path(record.folder) / "model", data, "test").with_suffix(".png")


def _zero_shot(planned: Plan, task: str, model: Model) -> Path:
    return zero_shot_path(planned.settings, planned.folders, model, task).with_suffix(".png")


def _fields(path: Path, file: str, caption: str) -> Picture:
    return Picture(file, f"{caption}: source, solution, prediction, error.", "png", path.read_bytes())
