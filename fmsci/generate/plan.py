"""What there is to make and who makes it: pure functions of the request and of integers."""

from __future__ import annotations

import heapq
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fmsci.config import GenerateSettings, Schema, parse
from fmsci.config.sections import Whole
from fmsci.errors import UserError, nearest
from fmsci.files import read_json, write_json
from fmsci.generate.tally import tally_size
from fmsci.pde import REVISION, SYSTEMS, System
from fmsci.shards.layout import FORMAT_VERSION, MANIFEST, PLAN, SPLITS, DataFacts, ShardLayout, check_count
from fmsci.shards.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Task:
    """One shard: the samples first .. first + count - 1 of a split."""

    split: str
    index: int
    first: int
    count: int


class Request(Schema):
    """Everything that decides a data folder's content; kept as ``plan.json`` in it from the first moment on."""

    format_version: int = FORMAT_VERSION
    system: str
    range: tuple[float, float]
    grid: int
    seed: int
    counts: dict[str, int]
    shard_samples: int
    options: dict[str, str]
    """The choice for each of the system's options."""
    revision: Whole = 0
    """:data:`fmsci.pde.REVISION` of the samples; not written while it is 0."""

    @property
    def equation(self) -> System:
        """The system that is solved."""
        return SYSTEMS[self.system]

    @property
    def facts(self) -> DataFacts:
        """What all shards have in common."""
        system = self.equation
        return DataFacts(
            system=self.system,
            range=self.range,
            grid=self.grid,
            columns=system.columns,
            figures=tuple(system.figures),
            tallied=0 if system.tally is None else tally_size(*self.range),
            seed=self.seed,
            options=self.options,
        )

    def layout(self, task: Task) -> ShardLayout:
        """Return what the shard of a task will hold."""
        return self.facts.shard(task.split, task.index, task.first, task.count)

    def command(self, folder: Path) -> str:
        """Return the command that makes the folder, as it would be typed."""
        settings = {"system": self.system, "range": f"[{self.range[0]!r},{self.range[1]!r}]", "grid": self.grid}
        settings |= {"seed": self.seed} | self.counts | {"shard_samples": self.shard_samples}
        settings |= {f"options.{name}": choice for name, choice in self.options.items()} | {"output": folder}
        return shlex.join(["fmsci", "generate", *(f"{key}={value}" for key, value in settings.items())])


def build_request(settings: GenerateSettings) -> Request:
    """Return the request of some settings; UserError where the system does not exist or its range makes no sense."""
    if settings.system not in SYSTEMS:
        hint = nearest(settings.system, SYSTEMS)
        raise UserError(f"'system' is '{settings.system}'{hint} but should be one of {', '.join(SYSTEMS)}")
    system = SYSTEMS[settings.system]
    options = _complete(system, settings.options)
    wrong = system.check_range(*settings.range, options)
    if wrong is not None:
        raise UserError(f"'range' of {settings.system}: {wrong}")
    check_count((int(getattr(settings, split)) for split in SPLITS), settings.shard_samples)
    return Request(
        system=settings.system,
        range=settings.range,
        grid=settings.grid,
        seed=settings.seed,
        counts={split: int(getattr(settings, split)) for split in SPLITS},
        shard_samples=settings.shard_samples,
        options=options,
        revision=REVISION,
    )


def _complete(system: System, given: Mapping[str, str]) -> dict[str, str]:
    """Return the system's options with the given choices; UserError where it has no such option or choice."""
    for name, choice in given.items():
        if name not in system.options:
            allowed = ", ".join(system.options) or "none"
            raise UserError(f"unknown 'options.{name}'{nearest(name, system.options)}; {system.name} has: {allowed}")
        if choice not in system.options[name]:
            raise UserError(f"'options.{name}' is '{choice}' but should be one of {', '.join(system.options[name])}")
    return {name: choices[0] for name, choices in system.options.items()} | dict(given)


def build_tasks(request: Request) -> list[Task]:
    """Return every shard of the request, split after split."""
    return [
        Task(split, index, first, min(request.shard_samples, count - first))
        for split, count in request.counts.items()
        for index, first in enumerate(range(0, count, request.shard_samples))
    ]


def share(tasks: Sequence[Task], rank: int, size: int) -> list[Task]:
    """Return the tasks of one rank, so that all ranks have nearly the same number of samples.

    The largest go first, each to the rank that has least so far (the lowest one among equals): the loads then differ
    by one shard at most. A rank makes its tasks in the order of the list.
    """
    if size == 1:
        return list(tasks)
    loads = [(0, other) for other in range(size)]  # a heap: the least loaded rank comes first
    mine: list[tuple[int, Task]] = []
    for position, task in sorted(enumerate(tasks), key=lambda item: (-item[1].count, item[0])):
        load, least = loads[0]
        heapq.heapreplace(loads, (load + task.count, least))
        if least == rank:
            mine.append((position, task))
    return [task for _, task in sorted(mine, key=lambda item: item[0])]


def request_of(manifest: Manifest) -> Request | None:
    """Return the request that a finished folder was made for; None where the data were imported."""
    if manifest.seed is None:
        return None
    same = {name: getattr(manifest, name) for name in Request.model_fields if name != "counts"}
    return Request(**same, counts={split: record.count for split, record in manifest.splits.items()})


def agree_with_plan(folder: Path, request: Request) -> None:
    """Publish ``plan.json``, or compare with the one that is there; where it was lost, with what the manifest says.

    Raises UserError naming the first difference: a folder never holds samples of two requests.
    """
    path = folder / PLAN
    earlier = parse(Request, read_json(path), str(path)) if path.exists() else None
    if earlier is None and (folder / MANIFEST).exists():
        try:
            earlier = request_of(read_manifest(folder))
        except UserError as error:
            raise UserError(
                f"{error}; {PLAN} is missing too, so nothing says what {folder} was to hold: remove it, or give "
                "another output folder"
            ) from None
        if earlier is None:
            raise UserError(f"{folder} already holds data that fmsci generate did not make; give another output folder")
    for name in Request.model_fields if earlier is not None else ():
        before, now = getattr(earlier, name), getattr(request, name)
        if before != now:
            raise UserError(
                f"{folder} was begun with {name} = {_shown(before)}, now it is {_shown(now)}; "
                "give the same settings, another output folder, or remove this one"
            )
    if not path.exists():
        write_json(path, request.model_dump(mode="json", exclude=set() if request.revision else {"revision"}))


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(list(value)) if isinstance(value, tuple) else str(value)
