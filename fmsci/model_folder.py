"""The portable model folder: config.json, model.safetensors, normalization.json, README.md (its card). Runs no code.

Contract: architecture and coefficient names in ``config.json``, the scales in ``normalization.json``, float32 weights
by parameter name in ``model.safetensors``. Loading reads JSON and safetensors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fmsci.checkpoint import read_tensors, write_tensors
from fmsci.config import Schema, parse
from fmsci.errors import UserError
from fmsci.files import publish_folder, read_json, write_json
from fmsci.model.operator import Scales, SolutionOperator
from fmsci.model.sizes import Architecture

FORMAT_VERSION = 1


class ArchitectureDocument(Schema):
    """``architecture`` in config.json."""

    in_channels: int
    width: int
    modes: int
    layers: int


class ConfigDocument(Schema):
    """config.json: what the weights are."""

    format_version: int
    model: str
    architecture: ArchitectureDocument
    num_parameters: int
    coefficients: tuple[str, ...]
    trained_on: dict[str, Any]
    measured: dict[str, Any]


class NormalizationDocument(Schema):
    """normalization.json: the scales of the training split, see :class:`fmsci.model.operator.Scales`."""

    source: float
    coefficients: dict[str, float]


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
    """Return what a model folder holds, without its weights. Raises UserError where it is none, or too new."""
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
    return ModelFolder(
        path, Architecture(**config.architecture.model_dump()), Scales(norm.source, dict(norm.coefficients)), config
    )


def load_weights(operator: SolutionOperator, path: Path) -> None:
    """Load the weights of a model folder or checkpoint. Raises UserError where names or shapes are not the model's."""
    tensors = read_tensors(path / "model.safetensors")
    own = operator.state_dict()
    wrong = [name for name in own if name not in tensors or tensors[name].shape != own[name].shape]
    extra = [name for name in tensors if name not in own]
    if wrong or extra:
        raise UserError(f"{path}/model.safetensors does not fit its architecture: {', '.join((wrong + extra)[:3])}")
    operator.load_state_dict(tensors)


def load_operator(path: Path) -> SolutionOperator:
    """Return the trained operator of a model folder, on the CPU."""
    folder = open_model_folder(path)
    operator = SolutionOperator(folder.architecture, folder.scales)
    load_weights(operator, path)
    return operator


def _card(config: ConfigDocument) -> str:
    def lines(facts: Mapping[str, Any]) -> str:
        return "".join(f"- {name}: {value}\n" for name, value in facts.items())

    arch = config.architecture
    return (
        f"# Fourier neural operator, {config.num_parameters:,} parameters\n\n"
        f"Maps a source field and the coefficients {', '.join(config.coefficients)} to the solution field.\n"
        f"Width {arch.width}, modes {arch.modes}, layers {arch.layers}.\n\n"
        f"## Trained on\n\n{lines(config.trained_on)}\n## Measured\n\n{lines(config.measured)}\n"
        "## Limits\n\nPeriodic unit square; errors grow outside the range of coefficients that it was trained on.\n"
    )
