"""The portable model folder: config.json, model.safetensors, normalization.json, README.md (its card). Runs no code.

Contract: architecture and coefficient names in ``config.json``, the scales in ``normalization.json``, float32 weights
by parameter name in ``model.safetensors``. Loading reads JSON and safetensors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fmsci.checkpoint import read_tensors, write_tensors
from fmsci.config import Schema, parse
from fmsci.config.sections import Count, Positive
from fmsci.errors import UserError
from fmsci.files import publish_folder, read_json, write_json
from fmsci.model.operator import Scales, SolutionOperator
from fmsci.model.sizes import Architecture

FORMAT_VERSION = 1


class ArchitectureDocument(Schema):
    """``architecture`` in config.json."""

    in_channels: Count
    width: Count
    modes: Count
    layers: Count


class ConfigDocument(Schema):
    """config.json: what the weights are."""

    format_version: int
    model: Literal["fno"]
    architecture: ArchitectureDocument
    num_parameters: Count
    coefficients: tuple[str, ...]
    trained_on: dict[str, Any]
    measured: dict[str, Any]


class NormalizationDocument(Schema):
    """normalization.json: the scales of the training split, see :class:`fmsci.model.operator.Scales`."""

    source: Positive
    coefficients: dict[str, Positive]


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder says before its weights are read."""

    path: Path
    architecture: Architecture
    scales: Scales
    config: ConfigDocument


def write_model(
    path: Path,
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    scales: Scales,
    trained_on: dict[str, Any],
    measured: dict[str, Any],
) -> None:
    """Publish a model folder; ``trained_on`` and ``measured`` go into config.json and the card."""
    config = ConfigDocument(
        format_version=FORMAT_VERSION,
        model="fno",
        architecture=ArchitectureDocument(**architecture.as_dict()),
        num_parameters=architecture.num_parameters,
        coefficients=scales.columns,
        trained_on=trained_on,
        measured=measured,
    )
    with publish_folder(path) as folder:
        write_json(folder / "config.json", config.model_dump(mode="json"))
        write_json(folder / "normalization.json", {"source": scales.source, "coefficients": scales.coefficients})
        write_tensors(folder / "model.safetensors", weights)
        (folder / "README.md").write_text(_card(config), encoding="utf-8")


def open_model_folder(path: Path) -> ModelFolder:
    """Return what a model folder holds, without its weights.

    Raises UserError where it is none, is of another version, or contradicts itself. What config.json declares is held
    against the size of the weights file before anything of that size is made.
    """
    if not (path / "config.json").is_file():
        raise UserError(f"{path} is no model folder: it has no config.json; give a folder such as RUN/model")
    document = read_json(path / "config.json")
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{path}/config.json has format version {version}, this fmsci reads {FORMAT_VERSION}")
    config = parse(ConfigDocument, document, f"{path}/config.json")
    norm = parse(NormalizationDocument, read_json(path / "normalization.json"), f"{path}/normalization.json")
    if tuple(norm.coefficients) != config.coefficients:
        raise UserError(f"{path}: config.json and normalization.json name different coefficients; make the model anew")
    architecture = Architecture(**config.architecture.model_dump())
    if architecture.in_channels != 1 + len(config.coefficients):
        raise UserError(
            f"{path}/config.json: {architecture.in_channels} in_channels do not fit a source and "
            f"{len(config.coefficients)} coefficients; make the model anew"
        )
    _check_size(path, architecture, config)
    return ModelFolder(path, architecture, Scales(norm.source, dict(norm.coefficients)), config)


def _check_size(path: Path, architecture: Architecture, config: ConfigDocument) -> None:
    """Raise UserError where architecture, declared parameters and the weights file are not of one size."""
    weights, count = path / "model.safetensors", architecture.num_parameters
    if config.num_parameters != count:
        raise UserError(
            f"{path}/config.json: its architecture has {count:,} parameters, not {config.num_parameters:,}; "
            "make the model anew"
        )
    if not weights.is_file():
        raise UserError(f"there is no weights file {weights}")
    if weights.stat().st_size < 4 * count:
        raise UserError(
            f"the weights file {weights} is damaged: {weights.stat().st_size:,} bytes cannot hold {count:,} parameters"
        )


def load_weights(operator: SolutionOperator, path: Path) -> None:
    """Load the weights of a model folder or checkpoint.

    Raises UserError where names, shapes or number types are not the model's.
    """
    tensors = read_tensors(path / "model.safetensors")
    own = operator.state_dict()
    wrong = [name for name, tensor in own.items() if name not in tensors or not _fits(tensors[name], tensor)]
    extra = [name for name in tensors if name not in own]
    if wrong or extra:
        raise UserError(f"{path}/model.safetensors does not fit its architecture: {', '.join((wrong + extra)[:3])}")
    operator.load_state_dict(tensors)


def _fits(tensor: Tensor, own: Tensor) -> bool:
    return tensor.shape == own.shape and tensor.dtype == torch.float32


def load_operator(path: Path) -> SolutionOperator:
    """Return the trained operator of a model folder, on the CPU."""
    folder = open_model_folder(path)
    operator = SolutionOperator(folder.architecture, folder.scales)
    load_weights(operator, path)
    return operator


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _card(config: ConfigDocument) -> str:
    def lines(facts: Mapping[str, Any]) -> str:
        return "".join(f"- {name}: {_shown(value)}\n" for name, value in facts.items() if value is not None)

    arch = config.architecture
    return (
        f"# Fourier neural operator, {config.num_parameters:,} parameters\n\n"
        f"Maps a source field and the coefficients {', '.join(config.coefficients)} to the solution field.\n"
        f"Width {arch.width}, modes {arch.modes}, layers {arch.layers}.\n\n"
        f"## Trained on\n\n{lines(config.trained_on)}\n## Measured\n\n{lines(config.measured)}\n"
        "## Limits\n\nPeriodic unit square; errors grow outside the range of coefficients that it was trained on.\n"
    )
