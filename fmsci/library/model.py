"""``fmsci.load``: a trained model that solves for numpy arrays and torch tensors, alone or in batches."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fmsci.errors import ArgumentError
from fmsci.files import as_path
from fmsci.model.operator import SolutionOperator
from fmsci.model.sizes import check_grid
from fmsci.model.training_range import TrainingRange
from fmsci.model_folder.reading import ModelFolder, open_model_folder
from fmsci.model_folder.weights import load_weights
from fmsci.pde import SYSTEMS
from fmsci.pde.arguments import as_real, check_equation, stack_coefficients
from fmsci.pde.grid import LARGEST_MEAN

FIELD_BYTES = 1 << 28
"""So much of a layer's output is in memory at once; a larger batch is solved in pieces."""


Columns: TypeAlias = ArrayLike | Mapping[str, Any] | None


class TrainingRangeWarning(UserWarning):
    """The coefficients lie outside what the model was trained on: nobody has measured its error there."""


class Model:
    """A trained model. ``fmsci.load`` makes one.

    path: its folder; coefficients: the names that ``solve`` takes; device: where it computes; measured: its errors as
    its card has them; training_range: what it was trained on, or None where the folder does not say; operator: the
    torch module itself, (B, H, W) and (B, K) -> (B, H, W), for gradients or a training of one's own.
    """

    def __init__(self, folder: ModelFolder, operator: SolutionOperator, device: torch.device) -> None:
        self.path = folder.path
        self.coefficients = folder.scales.columns
        self.measured = dict(folder.config.measured)
        self.training_range: TrainingRange | None = folder.training_range
        self.architecture = folder.architecture
        self.device = device
        self.operator = operator.to(device).eval()

    def __str__(self) -> str:
        return f"the model {self.path}"

    def __repr__(self) -> str:
        size = f"{self.architecture.num_parameters:,} parameters"
        return f"<fmsci model {self.path}: {size}, takes {', '.join(self.coefficients)}, on {self.device}>"

    @overload
    def solve(self, source: Tensor, coefficients: Columns = None, /, **named: Any) -> Tensor: ...

    @overload
    def solve(self, source: ArrayLike, coefficients: Columns = None, /, **named: Any) -> NDArray[np.float32]: ...

    def solve(self, source: Any, coefficients: Columns = None, /, **named: Any) -> Any:
        """Return the predicted solution u of a source f, or of a batch of them.

        The trained counterpart of ``fmsci.pde.solve(system, source, ...)``.

        Args:
            source: f, (ny, nx) or (B, ny, nx), the x axis last; a numpy array or a torch tensor on any device. Any grid
                serves that has at least twice as many points as the model has modes. A mean is removed where no
                training source has one, as the exact solver does.
            coefficients: instead of names, columns (K,) or (B, K) in the order of ``self.coefficients``, or a mapping.
            named: each of ``self.coefficients``, a number or (B,); with (B,) a single source serves for all.

        Returns:
            u, (ny, nx) or (B, ny, nx) float32, an array or a tensor as ``source`` is, on the same device. No gradients.

        Raises:
            ArgumentError: a ValueError, where a name, a shape or a number is wrong, or K is not positive definite.

        Warns:
            TrainingRangeWarning: where coefficients lie outside what the model was trained on.
        """
        outside = self.outside(source, coefficients, **named)
        if outside is not None:
            warnings.warn(f"{outside}: {self} has not been measured there", TrainingRangeWarning, stacklevel=2)
        return self.solve_unwarned(source, coefficients, **named)

    def solve_unwarned(self, source: Any, coefficients: Columns = None, /, **named: Any) -> Any:
        """Return what ``solve`` does, without its warning: for who asks ``outside`` instead."""
        fields, columns, one = self._given(source, coefficients, named)
        u = self._answer(fields.expand(len(columns), -1, -1), torch.from_numpy(columns).float())
        if not torch.isfinite(u).all():
            raise ArgumentError(f"{self} has no finite answer; are source and coefficients of a sensible size?")
        if fields.ndim == 2 and one:
            u = u[0]
        return u.to(source.device) if isinstance(source, Tensor) else u.cpu().numpy()

    def outside(self, source: ArrayLike | Tensor, coefficients: Columns = None, /, **named: Any) -> str | None:
        """Say which coefficients lie outside what the model was trained on, as ``solve`` warns, or None."""
        if self.training_range is None:
            return None
        fields, columns, _ = self._given(source, coefficients, named)
        norm = fields.square().mean(dim=(-2, -1)).sqrt().double().cpu().numpy()
        return self.training_range.outside(np.broadcast_to(norm, len(columns)).copy(), columns)

    def _given(
        self, source: Any, coefficients: Columns, named: Mapping[str, Any]
    ) -> tuple[Tensor, NDArray[np.float64], bool]:
        """Return the source on the device, (ny, nx) or (B, ny, nx), the coefficients (B, K), and whether they are one
        set of numbers."""
        fields = _fields(source).to(self.device)
        square = fields.square().mean(dim=(-2, -1))  # by its root the operator divides
        if not torch.isfinite(square).all():
            raise ArgumentError("source is so large that its L2 norm is no float32; scale source and coefficients down")
        if ((square < torch.finfo(square.dtype).tiny) & fields.ne(0).any(dim=-1).any(dim=-1)).any():
            raise ArgumentError("source is so small that its L2 norm is no float32; scale source and coefficients up")
        fields = self._without_mean(fields)
        count = len(fields) if fields.ndim == 3 else None
        columns, one = stack_coefficients(str(self), self.coefficients, coefficients, named, count)
        check_grid(self.architecture.modes, fields.shape[-2], fields.shape[-1], trained=True)
        check_equation(self.coefficients, columns, self.training_range.systems if self.training_range else SYSTEMS)
        return fields, columns, one

    @torch.no_grad()
    def _answer(self, fields: Tensor, columns: Tensor) -> Tensor:
        """Return u (B, ny, nx), in pieces that fit into memory."""
        u = torch.empty(fields.shape, device=self.device)
        one = 4 * self.architecture.width * fields.shape[1] * fields.shape[2]
        at_once = max(1, FIELD_BYTES // one)
        for start in range(0, len(fields), at_once):
            rows = slice(start, start + at_once)
            u[rows] = self.operator(fields[rows], columns[rows].to(self.device))
        return u

    def _without_mean(self, fields: Tensor) -> Tensor:
        if self.training_range is None or self.training_range.keeps_mean:
            return fields
        mean = fields.mean(dim=(-2, -1), keepdim=True)
        size = fields.square().mean(dim=(-2, -1), keepdim=True).sqrt()
        return torch.where(mean.abs() > LARGEST_MEAN * size, fields - mean, fields)


def load(path: str | Path, device: str | torch.device = "auto") -> Model:
    """Return the trained model of a folder such as ``RUN/model``.

    ``device``: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one. Loading runs no code of the folder.
    Raises UserError where it is no model folder or a damaged one, ArgumentError where there is no such device.
    """
    place = choose_device(device)
    folder = open_model_folder(as_path(path, "the model folder"))
    operator = SolutionOperator(folder.architecture, folder.scales)
    load_weights(operator, folder.path)
    return Model(folder, operator, place)


def choose_device(wanted: str | torch.device) -> torch.device:
    """Return a device that computes; ArgumentError where it does not."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise ArgumentError(f"there is no device '{wanted}' here; use auto, cpu, cuda or cuda:N") from None
    return device


def _fields(source: Any) -> Tensor:
    """Return a source as a float32 tensor; ArgumentError where it is none."""
    if isinstance(source, Tensor) and source.is_floating_point() and _has_values(source):
        fields = source.detach().float()
        if not torch.isfinite(fields).all():
            raise ArgumentError("source holds a value that is not finite")
    else:
        fields = torch.from_numpy(as_real(source, "source")).float()
        if not torch.isfinite(fields).all():
            raise ArgumentError("source holds a value that is no float32")
    if fields.ndim not in (2, 3) or 0 in fields.shape[-2:]:
        raise ArgumentError(f"source must be (ny, nx) or (B, ny, nx), got {tuple(fields.shape)}")
    return fields


def _has_values(tensor: Tensor) -> bool:
    """Tell whether a tensor is an array of numbers: neither sparse nor a shape alone."""
    return tensor.layout == torch.strided and not tensor.is_meta
