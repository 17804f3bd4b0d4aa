"""Load the weights of a model folder: safetensors, which run no code, held against the model before they are taken."""

from __future__ import annotations

from pathlib import Path

from fmsci.model.operator import SolutionOperator
from fmsci.model_folder.documents import WEIGHTS
from fmsci.model_folder.reading import open_model_folder
from fmsci.tensors import checked_tensors


def load_weights(operator: SolutionOperator, path: Path) -> None:
    """Load the weights of a model folder; UserError where they are not the model's, or not finite."""
    shapes = {name: tensor.shape for name, tensor in operator.state_dict().items()}
    operator.load_state_dict(dict(checked_tensors(path / WEIGHTS, shapes, "make the model anew")))


def load_operator(path: Path) -> SolutionOperator:
    """Return the trained operator of a model folder, on the CPU."""
    folder = open_model_folder(path)
    operator = SolutionOperator(folder.architecture, folder.scales)
    load_weights(operator, path)
    return operator
