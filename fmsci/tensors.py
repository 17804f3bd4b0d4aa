"""Named tensors in a safetensors file: written, read one by one, checked before any of them is used. No pickle."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fmsci.errors import UserError
from fmsci.files import regular_file


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors. Raises OSError where the place is full."""
    path.touch()
    mode = path.stat().st_mode  # safetensors makes its files private; these are to be read like any other
    try:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)


def tensor_shapes(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and number type (F32) of each tensor, by its name, from the file's header alone.

    Raises UserError where the file is missing or damaged.
    """
    with _open_tensors(path) as stream:
        slices = {name: stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
        return {name: (tuple(one.get_shape()), str(one.get_dtype())) for name, one in slices.items()}


def each_tensor(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the named tensors of a safetensors file one by one, so that not all are in memory.

    Raises UserError where the file is missing or damaged.
    """
    with _open_tensors(path) as stream:
        for name in stream.keys():  # noqa: SIM118 - not a mapping
            yield name, stream.get_tensor(name)


def checked_tensors(path: Path, shapes: Mapping[str, Sequence[int]], remedy: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights in a safetensors file one by one: float32, finite, of just these names and ``shapes``.

    Raises UserError, with what to do (``remedy``), where they are others, before any of them is read.
    """
    found, wanted = tensor_shapes(path), {name: (tuple(shape), "F32") for name, shape in shapes.items()}
    wrong = [name[:60] for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    if wrong:
        raise UserError(f"{path} does not fit its architecture: {', '.join(wrong[:3])}; {remedy}")
    for name, tensor in each_tensor(path):
        if not math.isfinite(float(torch.sum(tensor, dtype=torch.float64))):
            raise UserError(f"{path}: {name} is not finite; {remedy}")
        yield name, tensor


@contextmanager
def _open_tensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(regular_file(path), framework="pt") as stream:
            yield stream
    except FileNotFoundError:
        raise UserError(f"there is no weights file {path}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"the weights file {path} is damaged: {error}") from None
