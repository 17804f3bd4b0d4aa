"""The weights of a model folder on every rank: one reads them for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fmsci.engine.collective import read_by_main
from fmsci.model.operator import SolutionOperator
from fmsci.model_folder.documents import WEIGHTS
from fmsci.model_folder.reading import ModelFolder
from fmsci.tensors import checked_tensors
from fmsci.world import World


def each_weight(
    folder: Path, shapes: Mapping[str, Sequence[int]], world: World, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights in a model folder, by name, on every rank. Collective.

    Raises UserError where they are not those of ``shapes``, or not finite.
    """
    yield from read_by_main(
        world, device, shapes, lambda: checked_tensors(folder / WEIGHTS, shapes, "make the model anew")
    )


def load_operator(folder: ModelFolder, world: World, device: torch.device) -> SolutionOperator:
    """Return the trained operator of a model folder, on the device of every rank. Collective."""
    operator = SolutionOperator(folder.architecture, folder.scales).to(device)
    own = operator.state_dict()
    shapes = {name: tensor.shape for name, tensor in own.items()}
    for name, tensor in each_weight(folder.path, shapes, world, device):
        own[name].copy_(tensor)
    return operator
