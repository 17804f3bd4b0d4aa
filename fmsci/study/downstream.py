"""The downstream runs: each arm at each number of samples, alike in everything but the weights that it starts from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property

from fmsci.config import StudySettings, TrainSettings, assign, with_overrides
from fmsci.dataset.order import num_batches
from fmsci.model.sizes import Architecture
from fmsci.shards.layout import MANIFEST
from fmsci.study.data import DataFolders
from fmsci.study.identity import run_hash
from fmsci.study.jobs import Run, run_results
from fmsci.study.models import Model
from fmsci.train.learning_rate import peak_lr


@dataclass(frozen=True, eq=False)
class Base:
    """What all downstream runs of a study have in common."""

    settings: StudySettings
    folders: DataFolders
    train: TrainSettings
    """The settings of ``train`` with ``overrides``, before a run's own."""


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of one arm with one number of samples of one task: several rates, then several seeds."""

    base: Base
    arm: str
    of: Model
    """The model that is fine-tuned, or whose architecture is trained from scratch."""
    task: str
    samples: int
    _repeats: dict[tuple[str, int], Run] = field(default_factory=dict)
    """Those that were asked for: a plan is looked at often."""

    @property
    def model(self) -> str:
        """What its runs are filed under: the model's name; from scratch, the architecture's."""
        return self.of.name if self.arm == "finetune" else self.of.label

    @cached_property
    def sweep(self) -> tuple[Run, ...]:
        """A run for each learning rate, with the first seed."""
        rates = self.base.settings.rates or (None,)
        return tuple(self.run(rate, self.base.settings.seeds[0]) for rate in rates)

    def run(self, rate: float | None, seed: int) -> Run:
        """Return the run with a learning rate (None: that of the base) and a seed.

        Either arm takes the same optimizer steps on the same batches: epochs are chosen by the number of samples.
        """
        settings, base = self.base.settings, self.base.train
        batches = num_batches(self.samples, base.optim.batch_size)
        epochs = epochs_for(settings.steps_for(self.samples), self.samples, base.optim.batch_size)
        steps = epochs * batches
        data = settings.tasks[self.task]
        own = [
            f"seed={seed}",
            assign("data.path", data),
            f"data.train_samples={self.samples}",
            f"data.subset={seed}",  # of 0 the first ones
            assign("init", self.of.folder) if self.arm == "finetune" else "init=null",
            f"model={json.dumps(self.of.settings if self.arm == 'scratch' else {})}",
            f"optim.epochs={epochs}",
            *([] if rate is None else [f"optim.lr={rate}"]),
            f"monitor.validate_steps={max(1, steps // settings.validations)}",
            "checkpoint.every_epochs=null",  # an epoch is a single step where samples are few
            "checkpoint.keep=1",
            "checkpoint.keep_best=false",
            "checkpoint.keep_finished=false",
        ]
        wanted = with_overrides(base, own, str(settings.train))
        key = run_hash(wanted, {data: self.base.folders[data]}, self.of.key if self.arm == "finetune" else None)
        peak = peak_lr(wanted.optim, self.architecture.num_parameters, self.arm == "finetune")
        stage = "sweep" if seed == settings.seeds[0] else "repeats"
        name = f"{self.task}-{self.arm}-{self.model}-{self.samples}-lr{peak:g}-s{seed}-{key}"
        folder = settings.runs_folder / name
        words = ("train", str(settings.train), *settings.overrides, *own, assign("run", folder), "--test")
        return Run(
            stage=stage,
            name=name,
            words=words,
            results=run_results(folder, data),
            needs=(data / MANIFEST, *((self.of.ready,) if self.arm == "finetune" else ())),
            log=folder / "log.txt",
            key=key,
            arm=self.arm,
            model=self.model,
            task=self.task,
            samples=self.samples,
            rate=peak,
            seed=seed,
            steps=steps,
            samples_seen=epochs * self.samples,
            folder=folder,
            tests=(self.base.folders.tested(data),),
        )

    def repeat(self, best: Run, seed: int) -> Run:
        """Return the run like ``best`` with another seed."""
        if (best.key, seed) not in self._repeats:
            self._repeats[best.key, seed] = self.run(best.rate if self.base.settings.rates else None, seed)
        return self._repeats[best.key, seed]

    @property
    def architecture(self) -> Architecture:
        """The integers of the model that these runs train (a fine-tuned one of a mixture has more channels yet)."""
        shape = self.of.shape
        channels = 1 + len(self.base.folders.columns(self.base.settings.tasks[self.task]))
        return Architecture(channels, shape.width, shape.modes, shape.layers)


def epochs_for(steps: int, samples: int, batch_size: int) -> int:
    """Return the whole epochs of ``samples`` that hold at least ``steps`` optimizer steps."""
    return -(-steps // num_batches(samples, batch_size))
