"""Which jobs a study needs: pure functions of its settings, and of the validation errors for the choice of a rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmsci.config import StudySettings, TrainSettings, assign, load_settings
from fmsci.dataset.order import num_batches
from fmsci.evaluation import evaluation_path
from fmsci.shards.layout import MANIFEST
from fmsci.study.data import DataFolders
from fmsci.study.downstream import Base, Group
from fmsci.study.identity import digest, run_hash
from fmsci.study.jobs import Job, Run
from fmsci.study.models import Model, existing_model, pretrained_model
from fmsci.train.outcome import RESULT

STAGES = ("data", "pretrain", "zero-shot", "sweep", "repeats")
"""In the order in which their jobs can start."""


@dataclass(frozen=True)
class Plan:
    """All that a study needs; which rate the repeats take is known when the sweep is (see :func:`repeats`)."""

    settings: StudySettings
    folders: DataFolders
    models: tuple[Model, ...]
    data: tuple[Job, ...]
    pretraining: tuple[Run, ...]
    zero_shot: tuple[Job, ...]
    groups: tuple[Group, ...]

    @property
    def sweep(self) -> tuple[Run, ...]:
        """Every learning rate at the first seed, for each arm, task and number of samples."""
        return tuple(run for group in self.groups for run in group.sweep)

    def stage(self, name: str, errors: Mapping[Path, float]) -> tuple[Job | None, ...]:
        """Return the jobs of a stage by number; None for a repeat whose rate is not known yet."""
        stages: dict[str, tuple[Job | None, ...]] = {
            "data": self.data,
            "pretrain": self.pretraining,
            "zero-shot": self.zero_shot,
            "sweep": self.sweep,
        }
        return stages[name] if name in stages else repeats(self, errors)

    def count(self, name: str) -> int:
        """Return how many jobs a stage has, those included that are not known yet."""
        if name == "sweep":
            return len(self.groups) * len(self.settings.rates or (None,))
        return len(self.groups) * len(self.settings.seeds[1:]) if name == "repeats" else len(self.stage(name, {}))

    def job(self, name: str, number: int, errors: Mapping[Path, float]) -> Job | None:
        """Return one job of a stage, as :meth:`stage` would; of the others none is made, which may be thousands: each
        task of an array asks for its own."""
        if name == "sweep":
            group, at = divmod(number, len(self.settings.rates or (None,)))
            return self.groups[group].sweep[at]
        if name != "repeats":
            return self.stage(name, errors)[number]
        best = chosen(group_of(self, number), errors)
        seeds = self.settings.seeds[1:]
        return None if best is None else group_of(self, number).repeat(best, seeds[number % len(seeds)])

    def jobs(self, errors: Mapping[Path, float]) -> list[Job]:
        """Return every job that is known so far, those of earlier stages first."""
        return [job for name in STAGES for job in self.stage(name, errors) if job is not None]


def chosen(group: Group, errors: Mapping[Path, float]) -> Run | None:
    """Return the run of a sweep with the smallest validation error; None while one is missing, or where all diverged.

    The test error has no part in it.
    """
    found = [errors.get(run.folder) for run in group.sweep]
    known = [error for error in found if error is not None]
    if len(known) < len(found) or not math.isfinite(min(known)):
        return None
    return group.sweep[known.index(min(known))]


def hopeless(group: Group, errors: Mapping[Path, float]) -> bool:
    """Tell whether every learning rate of a group diverged: its repeats never come."""
    return all(math.isinf(errors.get(run.folder, 0.0)) for run in group.sweep)


def waits(group: Group, errors: Mapping[Path, float]) -> bool:
    """Tell whether the repeats of a group wait for the choice of a learning rate."""
    return chosen(group, errors) is None and not hopeless(group, errors)


def repeats(plan: Plan, errors: Mapping[Path, float]) -> tuple[Run | None, ...]:
    """Return the runs at the chosen rate with the further seeds, None where the rate is not known yet.

    Slot i belongs to the same arm, task, samples and seed whatever is known: job i of an array can be submitted before.
    """
    found: list[Run | None] = []
    for group in plan.groups:
        best = chosen(group, errors)
        found += [None if best is None else group.repeat(best, seed) for seed in plan.settings.seeds[1:]]
    return tuple(found)


def group_of(plan: Plan, number: int) -> Group:
    """Return what the repeat of a number repeats."""
    return plan.groups[number // len(plan.settings.seeds[1:])]


def plan(settings: StudySettings) -> Plan:
    """Return the plan. Raises UserError where configurations are wrong, missing, or do not fit together."""
    folders = DataFolders(settings)
    base = Base(settings, folders, load_settings(TrainSettings, settings.train, settings.overrides))
    models, pretraining = [], []
    for name, source in settings.models.items():
        tasks = source.tasks or tuple(settings.tasks)
        if source.folder is not None:
            models.append(existing_model(name, source.folder, tasks))
            continue
        assert source.train is not None, "the settings have one of folder and train"
        run = _pretraining(name, source.train, source.overrides, settings, folders)
        trained = load_settings(TrainSettings, source.train, source.overrides)
        models.append(pretrained_model(name, run.folder / "model", run.key, trained, tasks))
        pretraining.append(run)
    return Plan(
        settings,
        folders,
        tuple(models),
        tuple(_data_jobs(settings, folders)),
        tuple(pretraining),
        tuple(_zero_shot(settings, folders, models)),
        tuple(_groups(base, models)),
    )


def _groups(base: Base, models: list[Model]) -> Iterator[Group]:
    """Yield fine-tuning of each model, and training from scratch once for each architecture, side by side."""
    seen = set()
    for model in models:
        for task in model.tasks:
            for samples in base.settings.samples:
                yield Group(base, "finetune", model, task, samples)
                if (model.label, task, samples) not in seen:
                    seen.add((model.label, task, samples))
                    yield Group(base, "scratch", model, task, samples)


def _data_jobs(settings: StudySettings, folders: DataFolders) -> Iterator[Job]:
    for folder, source in folders.sources.items():
        yield Job(
            stage="data",
            name=folder.name,
            words=("generate", str(source.config), *source.overrides),
            results=(folder / MANIFEST,),
            needs=(),
            log=settings.run / "logs" / f"{folder.name}.log",
        )


def _pretraining(
    name: str, config: Path, overrides: tuple[str, ...], settings: StudySettings, folders: DataFolders
) -> Run:
    wanted = load_settings(TrainSettings, config, overrides)
    data = {folder: folders[folder] for folder in wanted.data.folders}
    init = None if wanted.init is None else existing_model(name, wanted.init, ()).key
    key = run_hash(wanted, data, init)
    folder = settings.runs_folder / f"pretrain-{name}-{key}"
    samples = _training_samples(wanted, data)
    evaluations = [evaluation_path(folder / "model", one, "test") for one in data]
    return Run(
        stage="pretrain",
        name=folder.name,
        words=("train", str(config), *overrides, assign("run", folder), "--test"),
        results=(folder / RESULT, *evaluations),
        needs=tuple(one / MANIFEST for one in data),
        log=folder / "log.txt",
        key=key,
        arm="pretrain",
        model=name,
        task="",
        samples=samples,
        rate=wanted.optim.lr,
        seed=wanted.seed,
        steps=wanted.optim.epochs * num_batches(samples, wanted.optim.batch_size),
        samples_seen=wanted.optim.epochs * samples,
        folder=folder,
        tests=tuple(map(folders.tested, data)),
    )


def _training_samples(wanted: TrainSettings, data: Mapping[Path, Mapping[str, Any]]) -> int:
    if wanted.data.mixture is None:
        (facts,) = data.values()
        return wanted.data.train_samples or int(facts["counts"]["train"])
    return sum(part.train_samples or int(data[part.path]["counts"]["train"]) for part in wanted.data.mixture)


def _zero_shot(settings: StudySettings, folders: DataFolders, models: list[Model]) -> Iterator[Job]:
    for model in models:
        for task in model.tasks:
            folder = settings.tasks[task]
            output = zero_shot_path(settings, folders, model, task)
            yield Job(
                stage="zero-shot",
                name=output.stem,
                words=("evaluate", str(model.folder), "--data", str(folder), "--output", str(output)),
                results=(output,),
                needs=(folder / MANIFEST, model.ready),
                log=settings.run / "logs" / f"{output.stem}.log",
            )


def zero_shot_path(settings: StudySettings, folders: DataFolders, model: Model, task: str) -> Path:
    """Return the file of a model's error on a task without any fine-tuning."""
    key = digest([model.key, folders[settings.tasks[task]]])
    return settings.runs_folder / "zero-shot" / f"{model.name}-on-{task}-{key}.json"
