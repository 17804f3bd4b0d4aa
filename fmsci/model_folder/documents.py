"""The documents of a model folder: architecture and coefficient names in ``config.json``, the scales in
``normalization.json``; what the model was trained on and measured with stands in the first."""

from __future__ import annotations

from typing import Any, Literal

from fmsci.config import Schema
from fmsci.config.sections import Count, Positive
from fmsci.model.training_range import TrainingRange

FORMAT_VERSION = 1
CONFIG, NORMALIZATION, WEIGHTS, CARD = "config.json", "normalization.json", "model.safetensors", "README.md"
FILES = (CONFIG, NORMALIZATION, WEIGHTS, CARD)


class ArchitectureDocument(Schema):
    """``architecture`` in config.json."""

    in_channels: Count
    width: Count
    modes: Count
    layers: Count


class RangeDocument(Schema):
    """``training_range`` in config.json, see :class:`fmsci.model.training_range.TrainingRange`."""

    systems: tuple[str, ...]
    grid: Count
    source_norm: tuple[float, float]
    coefficients: dict[str, tuple[float, float]]

    @property
    def value(self) -> TrainingRange:
        """The same as the model takes it."""
        return TrainingRange(self.systems, self.grid, self.source_norm, dict(self.coefficients))


class ConfigDocument(Schema):
    """config.json: what the weights are."""

    format_version: int
    model: Literal["fno"]
    architecture: ArchitectureDocument
    num_parameters: Count
    coefficients: tuple[str, ...]
    trained_on: dict[str, Any]
    measured: dict[str, Any]
    training_range: RangeDocument | None = None
    """Absent in folders of earlier versions, and where the data do not tell it."""


class NormalizationDocument(Schema):
    """normalization.json: the scales of the training split, see :class:`fmsci.model.scales.Scales`."""

    source: Positive
    coefficients: dict[str, Positive]
