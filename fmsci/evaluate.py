"""The error of a model on a split of a data folder: one result file and one picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fmsci
from fmsci.dataset.samples import SampleSet
from fmsci.engine.collective import decided_by_main
from fmsci.engine.loading import load_operator
from fmsci.engine.measure import batch_for, measure
from fmsci.figures import comparison_figure, sample_captions, save_figure
from fmsci.files import picture_beside, write_json
from fmsci.model.sizes import check_grid
from fmsci.model_folder.reading import open_model_folder
from fmsci.shards import read_manifest
from fmsci.shards.content import content_hash, made_data
from fmsci.world import World, collect_garbage


def evaluate(
    model: Path,
    data: Path,
    split: str,
    output: Path,
    world: World,
    device: torch.device,
    between: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure ``model`` on every sample of a split, once; write ``output`` (JSON) and a picture beside it.

    Collective: all ranks call it inside a process group. ``between`` is called after each batch and may raise.
    Raises UserError where the folder is no model, the data no data folder, or the two do not fit, and where the result
    has no place.
    """
    picture = picture_beside(output, ".json")
    folder = open_model_folder(model)
    manifest = read_manifest(data)
    samples = SampleSet(data, split, columns=folder.scales.columns)
    check_grid(folder.architecture.modes, manifest.grid, manifest.grid, trained=True)
    operator = load_operator(folder, world, device)
    collect_garbage()
    with torch.no_grad():
        at_once = batch_for(folder.architecture.width, manifest.grid)
        measured = measure(operator, samples, world, device, at_once, between=between)
        result = {
            "version": fmsci.__version__,
            "model": str(model),
            "data": str(data),
            "split": split,
            "system": manifest.system,
            "range": list(manifest.range),
            "grid": manifest.grid,
            "count": measured.count,
            "content": content_hash(made_data(manifest)),
            "rel_l2": measured.rel_l2,
            "loss": measured.loss,
        }

        def publish() -> float:
            shown = samples.gather(np.arange(min(2, len(samples))))
            moved = shown.to(device)
            predicted = operator(moved.source, moved.coefficients).cpu().numpy()
            fields = shown.source.numpy(), shown.solution.numpy(), predicted
            title = f"{model} on {data}, {split}: {manifest.title}, relative L2 {measured.rel_l2:.4f}"
            figure = comparison_figure(
                *fields, title, sample_captions(folder.scales.columns, shown.coefficients.numpy())
            )
            save_figure(figure, picture)
            write_json(output, result)  # last: who finds it finds the picture too
            return 0.0

        decided_by_main(world, device, publish)
    return result
