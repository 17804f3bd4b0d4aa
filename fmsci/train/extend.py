"""Start from a model that knows fewer coefficients: what it computes stays the same until training changes it."""

from __future__ import annotations

import torch
from torch import Tensor

from fmsci.checkpoint import read_tensors
from fmsci.errors import UserError
from fmsci.model.operator import Scales, SolutionOperator
from fmsci.model_folder import ModelFolder
from fmsci.shards.manifest import Scales as MeasuredScales


def extended_scales(old: Scales, measured: MeasuredScales) -> Scales:
    """Return the scales of a model with the data's coefficients: its own where it has them, else those measured."""
    return Scales(old.source, {**measured.coefficients, **old.coefficients})


def load_extended(operator: SolutionOperator, folder: ModelFolder) -> None:
    """Load the weights of a model folder; the columns of the new coefficients are zero, so that they change nothing.

    The input channels are an axis of exactly the tensors whose shape changes with their number (the lift's weight).
    Raises UserError where the folder's weights are of another architecture.
    """
    old_columns, new_columns = ("f", *folder.scales.columns), ("f", *operator.scales.columns)
    places = torch.tensor([new_columns.index(name) for name in old_columns])
    tensors = read_tensors(folder.path / "model.safetensors")
    own = operator.state_dict()
    if tensors.keys() != own.keys():
        raise UserError(f"{folder.path}/model.safetensors does not fit its architecture")
    for name, target in own.items():
        target.copy_(_placed(tensors[name], target, places, f"{folder.path}/model.safetensors: {name}"))


def _placed(source: Tensor, target: Tensor, places: Tensor, where: str) -> Tensor:
    if source.shape == target.shape:
        return source
    differing = [axis for axis, (a, b) in enumerate(zip(source.shape, target.shape, strict=True)) if a != b]
    if len(differing) != 1 or source.shape[differing[0]] != len(places):
        raise UserError(f"{where} has the shape {tuple(source.shape)}, {tuple(target.shape)} is needed")
    placed: Tensor = torch.zeros_like(target).index_copy_(differing[0], places.to(target.device), source.to(target))
    return placed
