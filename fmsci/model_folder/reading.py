"""Read what a model folder says, without its weights and without torch: studies and job scripts ask often.

It may come from a stranger: nothing in it is run, followed, or believed before it is checked. Only plain files are
read, and found by their names alone; documents and weights are held against each other before anything of the declared
size is made.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmsci.config import parse
from fmsci.errors import UserError
from fmsci.files import read_json
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture
from fmsci.model.training_range import TrainingRange
from fmsci.model_folder.documents import CONFIG, FORMAT_VERSION, NORMALIZATION, WEIGHTS, ConfigDocument
from fmsci.model_folder.documents import NormalizationDocument as Normalization

MOST_DOCUMENT_BYTES = 1 << 20
MOST_LAYERS = 1000
EXTRA_WEIGHT_BYTES = 1 << 20
"""What a weights file may hold beside its numbers: the header."""
LARGEST_SCALE = 1e30
"""Beyond, a scale or its inverse is no float32 any more."""


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder says before its weights are read."""

    path: Path
    architecture: Architecture
    scales: Scales
    config: ConfigDocument

    @property
    def training_range(self) -> TrainingRange | None:
        """What the model was trained on; None where the folder does not say."""
        return None if self.config.training_range is None else self.config.training_range.value


def open_model_folder(path: Path) -> ModelFolder:
    """Return what a model folder holds, without its weights.

    Raises UserError where it is none, is of another version, or contradicts itself. What config.json declares is held
    against the size of the weights file before anything of that size is made.
    """
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} is no model folder: it has no config.json; give a folder such as RUN/model")
    document = _read_document(path / CONFIG)
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        shown = str(version)[:40]
        raise UserError(f"{path}/config.json has format version {shown}, this fmsci reads {FORMAT_VERSION}")
    config = parse(ConfigDocument, document, f"{path}/config.json")
    norm = parse(Normalization, _read_document(path / NORMALIZATION), f"{path}/normalization.json")
    if tuple(norm.coefficients) != config.coefficients:
        raise UserError(f"{path}: config.json and normalization.json name different coefficients; make the model anew")
    try:
        architecture = Architecture(**config.architecture.model_dump())
    except UserError as error:
        raise UserError(f"{path}/config.json: {error}; make the model anew") from None
    if architecture.in_channels != 1 + len(config.coefficients):
        raise UserError(
            f"{path}/config.json: {architecture.in_channels} in_channels do not fit a source and "
            f"{len(config.coefficients)} coefficients; make the model anew"
        )
    _check_names(path, config)
    _check_scales(path, norm)
    _check_size(path, architecture, config)
    return ModelFolder(path, architecture, Scales(norm.source, dict(norm.coefficients)), config)


def check_plain(path: Path) -> None:
    """Raise UserError where a file of a model folder is a link, a pipe or a device; a missing one passes."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise UserError(f"{path} is a symbolic link: a model folder holds its files themselves; copy it with cp -rL")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path} is no file: a model folder holds plain files only; do not use this folder")


def _read_document(path: Path) -> Any:
    check_plain(path)
    if path.is_file() and path.stat().st_size > MOST_DOCUMENT_BYTES:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes, a model's needs a few thousand; do not use it")
    return read_json(path)


def _check_names(path: Path, config: ConfigDocument) -> None:
    """Raise UserError where a coefficient has no name to call it by, or the training range is not one."""
    for name in config.coefficients:
        if not (name.isidentifier() and name.isascii() and len(name) <= 32):
            raise UserError(f"{path}/config.json: {name[:40]!r} is no name of a coefficient; use letters and digits")
    ranges = config.training_range
    if ranges is None:
        return
    if tuple(ranges.coefficients) != config.coefficients:
        raise UserError(f"{path}/config.json: training_range names other coefficients; make the model anew")
    for name, (low, high) in {"source_norm": ranges.source_norm, **ranges.coefficients}.items():
        if low > high:
            raise UserError(f"{path}/config.json: training_range has {name} from {low:g} down to {high:g}")


def _check_scales(path: Path, norm: Normalization) -> None:
    for name, value in {"source": norm.source, **norm.coefficients}.items():
        if not 1 / LARGEST_SCALE <= value <= LARGEST_SCALE:
            raise UserError(f"{path}/normalization.json: {name} is {value:g} but should be from 1e-30 to 1e30")


def _check_size(path: Path, architecture: Architecture, config: ConfigDocument) -> None:
    """Raise UserError where architecture, declared parameters and the weights file are not of one size."""
    weights, count = path / WEIGHTS, architecture.num_parameters
    if architecture.layers > MOST_LAYERS:
        raise UserError(f"{path}/config.json: {architecture.layers:,} layers are more than the {MOST_LAYERS:,} allowed")
    if config.num_parameters != count:
        raise UserError(
            f"{path}/config.json: its architecture has {count:,} parameters, not {config.num_parameters:,}; "
            "make the model anew"
        )
    check_plain(weights)
    if not weights.is_file():
        raise UserError(f"there is no weights file {weights}")
    size = weights.stat().st_size
    if size < 4 * count:
        raise UserError(f"the weights file {weights} is damaged: {size:,} bytes cannot hold {count:,} parameters")
    if size > 8 * count + EXTRA_WEIGHT_BYTES:
        raise UserError(
            f"the weights file {weights} has {size:,} bytes, far more than {count:,} parameters need; do not use it"
        )
