"""From settings to the parts of a run: data, model, optimizer, engine, in the order that they need each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fmsci.config import TrainSettings
from fmsci.config.sections import ModelSettings
from fmsci.dataset.build import Data, build_data
from fmsci.dataset.cache import cached
from fmsci.dataset.loader import Loader
from fmsci.dataset.mixture import Mixture
from fmsci.dataset.samples import SampleSource
from fmsci.engine.api import Engine
from fmsci.engine.build import build_engine
from fmsci.engine.collective import told_by_main
from fmsci.engine.device import set_threads
from fmsci.engine.group import main_first
from fmsci.engine.replay_rule import numbers_of_step
from fmsci.errors import UserError
from fmsci.metrics import LOSSES
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture, architecture, check_grid
from fmsci.model_folder.reading import ModelFolder, open_model_folder
from fmsci.train.extend import extended_scales, load_extended
from fmsci.train.learning_rate import peak_lr
from fmsci.train.optim import build_optimizer
from fmsci.world import World, allow_open_files, keep_freed_memory


@dataclass(frozen=True)
class Job:
    """The parts of a training run; none of them changes its identity while it runs."""

    settings: TrainSettings
    world: World
    device: torch.device
    engine: Engine
    loader: Loader
    data: Data
    valid: dict[str, SampleSource]
    """The validation samples of each system."""
    architecture: Architecture
    scales: Scales

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.settings.run

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.loader.num_batches * self.settings.optim.epochs

    @property
    def peak_lr(self) -> float:
        """The peak learning rate."""
        return peak_lr(self.settings.optim, self.architecture.num_parameters, self.settings.init is not None)

    @property
    def model_facts(self) -> dict[str, Any]:
        """Architecture and scales, for a checkpoint: what ``choose_model`` needs of it."""
        return {"architecture": self.architecture.as_dict(), "scales": asdict(self.scales)}

    @property
    def headline(self) -> str:
        """What is trained and how, in one line."""
        of, how = self.architecture, self.settings.engine
        form = of.choose_transform(how.transform)
        zero = f" stage {how.zero_stage}" if how.kind == "zero" else ""
        replayed = ", replayed" if getattr(self.engine, "replayed", None) is not None else ""
        return (
            f"{of.num_parameters:,} parameters (width {of.width}, modes {of.modes}, {of.layers} layers; "
            f"transform {form}), {self.world.size} rank(s) of {how.kind}{zero}{replayed}, {how.precision}"
        )

    @property
    def trained_on(self) -> dict[str, Any]:
        """What goes into the model's card."""
        return {
            "data": self.data.description,
            "samples": len(self.loader.samples),
            "epochs": self.settings.optim.epochs,
            "init": None if self.settings.init is None else str(self.settings.init),
        }


def choose_model(
    settings: TrainSettings, saved: Mapping[str, Any] | None = None, scales_of: Callable[[Data], Scales] = Data.scales
) -> tuple[Architecture, Scales, Data, ModelFolder | None]:
    """Return architecture and scales: of the checkpoint (``saved``), else of ``init``, else from the dial and the data.

    With them come the data, with the coefficients that the model takes, and the ``init`` folder to load from.
    A run that has a checkpoint needs neither ``init`` nor the statistics of the data any more.

    An ``init`` model that knows fewer coefficients than the data have is extended by theirs. ``scales_of`` measures the
    scales of the data.

    Raises UserError where ``model.*`` contradicts the ``init`` model, the data have other coefficients, or the grid
    is too small.
    """
    if saved is not None:
        chosen, folder = Architecture(**saved["architecture"]), None
        scales = Scales(saved["scales"]["source"], dict(saved["scales"]["coefficients"]))
        data = build_data(settings.data, scales.columns)
    elif settings.init is None:
        data = build_data(settings.data)
        scales = scales_of(data)
        chosen, folder = architecture(1 + len(scales.coefficients), **settings.model.architecture), None
    else:
        folder = open_model_folder(settings.init)
        chosen, scales = folder.architecture, folder.scales
        _agree(settings.model, folder)
        data = build_data(settings.data)
        if set(scales.columns) < set(data.train.columns):  # it learns new coefficients
            scales = extended_scales(scales, scales_of(data))
            chosen = replace(chosen, in_channels=1 + len(scales.columns))
        elif scales.columns != data.train.columns:
            data = build_data(settings.data, scales.columns)
    check_grid(chosen.modes, data.train.grid, data.train.grid, trained=saved is not None or folder is not None)
    return chosen, scales, data, folder


def _agree(model: ModelSettings, folder: ModelFolder) -> None:
    if model.initial is not None:
        raise UserError(f"model.initial is given, but the weights come from {folder.path}; leave one of them out")
    given = {name: value for name, value in model.architecture.items() if value is not None}
    if not given:
        return
    own = folder.architecture
    wanted = architecture(
        own.in_channels, given.get("size"), given.get("width"), given.get("modes"), given.get("layers")
    )
    own_facts, wanted_facts = own.as_dict(), wanted.as_dict()
    asked = {"width", "modes"} if "size" in given else set()
    for name in sorted(asked | (given.keys() - {"size"})):
        if wanted_facts[name] != own_facts[name]:
            raise UserError(
                f"model.{name} is {wanted_facts[name]} by the settings but {own_facts[name]} in {folder.path}; "
                "leave model.* out when init names a model"
            )


def shared_scales(world: World, device: torch.device, data: Data) -> Scales:
    """Return the scales of the data, on every rank. Collective. Those of a mixture are read in every shard: by one rank
    for all, else a thousand ranks would open a hundred thousand files each."""
    if world.size == 1 or not isinstance(data.train, Mixture):
        return data.scales()
    columns, found = data.train.columns, None
    mistake: Exception | None = None
    with main_first(world, "scales"):  # of a hundred thousand shards that takes longer than a collective may
        try:
            found = data.scales() if world.is_main else None
        except Exception as error:  # whatever it is, the others wait to be told
            mistake = error

    def tell() -> list[float]:
        if mistake is not None:
            raise mistake
        assert found is not None, "rank 0 alone is asked"
        return [found.source, *(found.coefficients[name] for name in columns)]

    source, *coefficients = told_by_main(world, device, 1 + len(columns), tell)
    return Scales(source, dict(zip(columns, coefficients, strict=True)))


def build_job(
    settings: TrainSettings, world: World, device: torch.device, saved: Mapping[str, Any] | None = None
) -> Job:
    """Return all parts of a run; ``saved`` is ``model_facts`` from a checkpoint.

    The process group must be up where there are several ranks.
    """
    set_threads(settings.engine.threads, world)
    allow_open_files()  # of the shards as many stay open
    chosen, scales, data, folder = choose_model(settings, saved, partial(shared_scales, world, device))
    if device.type == "cpu":
        keep_freed_memory(chosen.largest_parameter_bytes)
    torch.manual_seed(settings.seed)  # every rank draws the same initial weights
    operator = SolutionOperator(
        chosen,
        scales,
        initial=settings.model.initial or "paper",
        backend=settings.engine.transform,
        recompute=settings.engine.recompute,
    ).to(device)
    if folder is not None:
        load_extended(operator, folder, world)
    optimizer = build_optimizer(operator, settings.optim)
    skip = settings.optim.on_nonfinite in {"skip", "rewind"}  # either way the weights stay as they are
    how = settings.engine
    if settings.monitor.profile is not None:
        how = how.model_copy(update={"replay": False})  # a replay has no stages
    share = -(-settings.optim.batch_size // world.size)
    engine = build_engine(
        how,
        operator,
        optimizer,
        world,
        settings.optim.grad_clip,
        skip,
        LOSSES[settings.optim.loss],
        numbers_of_step(chosen, share, data.train.grid),
    )

    def keep(samples: SampleSource) -> SampleSource:
        return cached(samples, settings.data.cache, device, world.local_size)

    loader = Loader(
        keep(data.train),
        settings.optim.batch_size,
        settings.seed,
        world.rank,
        world.size,
        settings.engine.accumulate,
        device,
        settings.data.prefetch,
        settings.optim.epochs,
    )
    valid = {system: keep(samples) for system, samples in data.valid.items()}
    return Job(settings, world, device, engine, loader, data, valid, chosen, scales)
