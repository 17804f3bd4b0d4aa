"""From settings to the samples of a run: one data folder, or a mixture of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fmsci.config.sections import DataSettings
from fmsci.dataset.mixture import Mixture
from fmsci.dataset.samples import SampleSet, SampleSource
from fmsci.dataset.scales import mixture_scales
from fmsci.errors import UserError
from fmsci.model.scales import Scales
from fmsci.model.training_range import TrainingRange
from fmsci.pde import NAMES


@dataclass(frozen=True)
class Data:
    """What a run learns from, and what it is measured on."""

    train: SampleSet | Mixture
    valid: dict[str, SampleSource]
    """The validation samples of each system."""

    def scales(self) -> Scales:
        """Return the scales for a model that begins here: of the training split, or of the mixture's samples."""
        if isinstance(self.train, Mixture):
            return mixture_scales(self.train)
        measured = self.train.manifest.scales
        return Scales(measured.source, dict(measured.coefficients))

    @cached_property
    def training_range(self) -> TrainingRange | None:
        """What the training samples span, for a model's folder: that of the whole training splits, which a subset only
        samples. None where a data folder does not tell."""
        sets = [self.train] if isinstance(self.train, SampleSet) else self.train.sets
        spreads = [one.spread() for one in sets]
        told = [spread for spread in spreads if spread is not None]
        if len(told) < len(sets):
            return None

        def union(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
            return min(low for low, _ in pairs), max(high for _, high in pairs)

        return TrainingRange(
            systems=tuple(dict.fromkeys(one.manifest.system for one in sets)),
            grid=self.train.grid,
            source_norm=union([norm for norm, _ in told]),
            coefficients={name: union([spread[name] for _, spread in told]) for name in self.train.columns},
        )

    @property
    def description(self) -> str:
        """The folders in words, for a model's card."""
        if isinstance(self.train, SampleSet):
            return str(self.train.folder)
        parts = zip(self.train.sets, self.train.drawn, strict=True)
        return ", ".join(f"{one.folder} ({len(one)} samples, {drawn} an epoch)" for one, drawn in parts)


def build_data(settings: DataSettings, columns: tuple[str, ...] | None = None) -> Data:
    """Return the samples that ``data.*`` names; ``columns`` are the coefficients of the model that is fine-tuned.

    Without them a single folder keeps its own columns, a mixture has all six.

    Raises UserError where a folder is no finished data folder, has too few samples, or does not fit.
    """
    if settings.mixture is None:
        assert settings.path is not None, "the settings have one of path and mixture"
        train = SampleSet(settings.path, "train", settings.train_samples, columns, settings.subset)
        valid = SampleSet(settings.path, "valid", settings.valid_samples, columns)
        return Data(train, {valid.manifest.system: valid})
    six = tuple(NAMES)
    if columns not in (None, six):
        raise UserError(
            f"the model takes the coefficients {', '.join(columns or ())}, a mixture needs one of all six; "
            "choose data.path, or another init"
        )
    parts = settings.mixture
    mixture = Mixture(
        [SampleSet(part.path, "train", part.train_samples, six) for part in parts], [part.weight for part in parts]
    )
    return Data(mixture, _by_system([SampleSet(part.path, "valid", settings.valid_samples, six) for part in parts]))


def _by_system(sets: Sequence[SampleSet]) -> dict[str, SampleSource]:
    """Join the folders of each system; a measurement takes every sample once, whatever the weights."""
    systems: dict[str, list[SampleSet]] = {}
    for one in sets:
        systems.setdefault(one.manifest.system, []).append(one)
    return {name: Mixture(found, [len(one) for one in found]) for name, found in systems.items()}
