"""Write a model folder, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from fmsci.files import publish_folder, write_json
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture
from fmsci.model.training_range import TrainingRange
from fmsci.model_folder.card import card
from fmsci.model_folder.documents import (
    CARD,
    CONFIG,
    FORMAT_VERSION,
    NORMALIZATION,
    WEIGHTS,
    ArchitectureDocument,
    ConfigDocument,
    RangeDocument,
)
from fmsci.tensors import write_tensors


def write_model(
    path: Path,
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    scales: Scales,
    trained_on: dict[str, Any],
    measured: dict[str, Any],
    training_range: TrainingRange | None = None,
) -> None:
    """Publish a model folder; the last three go into config.json and the card."""
    config = ConfigDocument(
        format_version=FORMAT_VERSION,
        model="fno",
        architecture=ArchitectureDocument(**architecture.as_dict()),
        num_parameters=architecture.num_parameters,
        coefficients=scales.columns,
        trained_on=trained_on,
        measured=measured,
        training_range=None if training_range is None else RangeDocument(**asdict(training_range)),
    )
    with publish_folder(path) as folder:
        write_json(folder / CONFIG, config.model_dump(mode="json"))
        write_json(folder / NORMALIZATION, {"source": scales.source, "coefficients": scales.coefficients})
        write_tensors(folder / WEIGHTS, weights)
        (folder / CARD).write_text(card(config), encoding="utf-8")
