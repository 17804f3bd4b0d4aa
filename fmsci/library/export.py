"""A model as a ``torch.export`` program: one file that runs wherever torch does, without fmsci."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import fmsci
from fmsci.errors import UserError
from fmsci.files import publish_file
from fmsci.model.operator import SolutionOperator
from fmsci.model.sizes import check_grid
from fmsci.model_folder.reading import open_model_folder
from fmsci.model_folder.weights import load_weights

ABOUT = "fmsci.json"
"""The extra file inside the program: what it takes and where it comes from."""


def export_model(model: Path, output: Path, grid: tuple[int, int] | None = None) -> tuple[int, int]:
    """Write the model of a folder as a program (source (B, ny, nx), coefficients (B, K)) -> (B, ny, nx), float32.

    The batch is free, the grid is fixed: that of the training data unless ``grid`` (ny, nx) is given. Returns the grid.
    Raises UserError where the folder is no model, does not tell its grid, or the file cannot be written.
    """
    folder = open_model_folder(model)
    if grid is None:
        if folder.training_range is None:
            raise UserError(f"{model} does not tell the grid it was trained on; give one with --grid NY NX")
        grid = (folder.training_range.grid,) * 2
    check_grid(folder.architecture.modes, *grid, trained=True)
    # Matrix products only: a program with complex numbers runs on fewer runtimes.
    operator = SolutionOperator(folder.architecture, folder.scales, backend="dft").eval().requires_grad_(False)
    load_weights(operator, model)
    example = torch.ones(2, *grid), torch.ones(2, len(folder.scales.columns))
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(operator, example, dynamic_shapes=({0: batch}, {0: batch}))
    about = {
        "version": fmsci.__version__,
        "model": folder.config.model,
        "num_parameters": folder.config.num_parameters,
        "inputs": ["source (batch, ny, nx)", "coefficients (batch, K)"],
        "coefficients": list(folder.scales.columns),
        "grid": list(grid),
        "measured": folder.config.measured,
    }
    with publish_file(output) as temporary, temporary.open("wb") as stream:
        torch.export.save(program, stream, extra_files={ABOUT: json.dumps(about)})
    return grid
