"""The paper's checkpoint, ``ckpt.tar``, as a model folder."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmsci.errors import UserError
from fmsci.files import taken
from fmsci.model.reference import from_reference
from fmsci.model.scales import Scales
from fmsci.model.training_range import TrainingRange
from fmsci.model_folder.documents import FILES
from fmsci.model_folder.writing import write_model
from fmsci.pde.arguments import find_system

STATE = "model_state"
"""What the paper's code calls the weights in its checkpoint."""
MOST_SCALE_BYTES = 1 << 16


def adopt_checkpoint(
    checkpoint: Path,
    output: Path,
    system: str,
    scales: Scales,
    described: str,
    training_range: TrainingRange | None = None,
) -> int:
    """Write a checkpoint of the paper's code as a model folder, and return its number of parameters.

    ``scales``: of the data that it was trained on, see :func:`read_scales`; ``described``: those data in words.

    Raises UserError where the file is no such checkpoint, has other channels than the system, or ``output`` is taken.
    """
    columns = find_system(system).columns
    held = taken(output, but=FILES, replaced=True)
    if held is not None:
        raise UserError(f"{held}; give another output folder")
    state, facts = read_checkpoint(checkpoint)
    model = from_reference(state)
    channels = model.architecture.in_channels
    if channels != 1 + len(columns):
        raise UserError(
            f"{checkpoint} takes {channels} channels, but {system} has a source and {len(columns)} coefficients: "
            f"{', '.join(columns)}"
        )
    weights = {f"fno.{name}": tensor for name, tensor in model.state_dict().items()}
    wrong = next((name for name, tensor in weights.items() if not torch.isfinite(tensor).all()), None)
    if wrong is not None:
        raise UserError(f"{checkpoint}: the weights {wrong} are not finite; take an earlier checkpoint")
    about = {"data": described, **facts, "converted_from": checkpoint.name}
    write_model(output, weights, model.architecture, scales, about, {}, training_range)
    return model.architecture.num_parameters


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return the weights of a checkpoint of the paper's code, and how long it was trained.

    torch reads it with ``weights_only``: it makes tensors and plain values, and runs nothing. What the tensors declare
    is held against the size of the file.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; give a checkpoint of the paper's code, such as ckpt.tar")
    try:
        if zipfile.is_zipfile(path):
            _check_unpacked(path)
        document = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's file makes torch stumble over
        reason = " ".join(str(error).split()).partition(". ")[0][:160]
        raise UserError(f"{path} is no checkpoint that can be read without running its code: {reason}") from None
    state = document.get(STATE) if isinstance(document, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{path} has no weights under '{STATE}', as a checkpoint of the paper's code has")
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise UserError(f"{path}: '{STATE}' holds more than named tensors; it is none of the paper's code")
    if sum(value.numel() * value.element_size() for value in state.values()) > path.stat().st_size:
        raise UserError(f"{path} declares more weights than its {path.stat().st_size:,} bytes can hold; do not use it")
    if any(value.layout != torch.strided or not value.is_floating_point() for value in state.values()):
        raise UserError(f"{path}: '{STATE}' holds other tensors than plain real ones; it is none of the paper's code")
    counts = {"epochs": _count(document, "epoch", 1), "steps": _count(document, "iters", 0)}
    weights = {name: value.float() for name, value in state.items()}
    return weights, {name: count for name, count in counts.items() if count is not None}


def _check_unpacked(path: Path) -> None:
    """Refuse a file that is far larger unpacked: torch packs nothing."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > 2 * path.stat().st_size:
        raise UserError(f"{path} unpacks to {size:,} bytes, far more than it has; do not use it")


def _count(document: Mapping[Any, Any], key: str, first: int) -> int | None:
    value = document.get(key)
    return value + first if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def read_scales(path: Path, system: str, grid: int) -> Scales:
    """Return the scales in a file of the paper's code, ``..._scales.npy``: source, each column, solution, lx, ly.

    Its source scale is the median of ||f||_2 / grid^2; ours is that of ||f||_2 / grid, the L2 norm on the unit square.
    """
    columns = find_system(system).columns
    if not path.is_file():
        raise UserError(f"there is no file {path}; give the scales of the training data, ..._scales.npy")
    if path.stat().st_size > MOST_SCALE_BYTES:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes but should hold {len(columns) + 4} numbers")
    try:
        with path.open("rb") as stream:
            values = np.lib.format.read_array(stream, allow_pickle=False)
        numbers = np.asarray(values, np.float64).tolist()
    except (ValueError, TypeError, OSError, EOFError, MemoryError) as error:
        raise UserError(f"{path} cannot be read as numbers: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(numbers, list) or len(numbers) != len(columns) + 4 or np.ndim(numbers) != 1:
        raise UserError(
            f"{path} has the shape {np.shape(values)} but {system} has {len(columns) + 4} scales: the source, "
            f"{', '.join(columns)}, the solution, and the two sides of the domain"
        )
    if not np.isfinite(numbers).all() or numbers[0] <= 0 or min(numbers) < 0:
        raise UserError(f"{path} holds scales that are not finite and positive: {numbers}")
    if numbers[-2:] != [1.0, 1.0]:
        raise UserError(f"{path} is of a domain of {numbers[-2]:g} x {numbers[-1]:g}, fmsci has the unit square")
    coefficients = {name: value or 1.0 for name, value in zip(columns, numbers[1:-3], strict=True)}
    return Scales(numbers[0] * grid, coefficients)
