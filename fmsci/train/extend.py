"""Start from a model that knows fewer coefficients: what it computes stays the same until training changes it."""

from __future__ import annotations

import torch
from torch import Tensor

from fmsci.engine.loading import each_weight
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model_folder.reading import ModelFolder
from fmsci.world import World

ALONE = World()


def extended_scales(old: Scales, measured: Scales) -> Scales:
    """Return the scales of a model with the data's coefficients: its own where it has them, else those measured."""
    return Scales(old.source, {**measured.coefficients, **old.coefficients})


def load_extended(operator: SolutionOperator, folder: ModelFolder, world: World = ALONE) -> None:
    """Load the weights of a model folder; the columns of the new coefficients are zero, so that they change nothing.

    The input channels are an axis of exactly the tensors whose shape changes with their number (the lift's weight).
    Collective, where ``world`` has several ranks: one reads for all.
    Raises UserError where the folder's weights are not those of its architecture, or not finite.
    """
    old_columns, new_columns = ("f", *folder.scales.columns), ("f", *operator.scales.columns)
    places = torch.tensor([new_columns.index(name) for name in old_columns])
    with torch.device("meta"):  # the shapes alone
        shapes = {k: v.shape for k, v in SolutionOperator(folder.architecture, folder.scales).state_dict().items()}
    own = operator.state_dict()
    for name, tensor in each_weight(folder.path, shapes, world, next(operator.parameters()).device):
        own[name].copy_(_placed(tensor, own[name], places))


def _placed(source: Tensor, target: Tensor, places: Tensor) -> Tensor:
    if source.shape == target.shape:
        return source
    (axis,) = (axis for axis, (a, b) in enumerate(zip(source.shape, target.shape, strict=True)) if a != b)
    placed: Tensor = torch.zeros_like(target).index_copy_(axis, places.to(target.device), source.to(target))
    return placed
