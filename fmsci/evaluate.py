"""The error of a model on a split of a data folder: one result file and one picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fmsci
from fmsci.config import Open, parse
from fmsci.dataset.samples import SampleSet
from fmsci.engine.collective import decided_by_main
from fmsci.engine.measure import measure
from fmsci.figures import comparison_figure, sample_captions, save_figure
from fmsci.files import read_json, write_json
from fmsci.model.sizes import check_grid
from fmsci.model_folder import load_operator, open_model_folder
from fmsci.shards import read_manifest
from fmsci.shards.content import content_hash, made_data
from fmsci.world import World


def evaluation_path(model: Path, data: Path, split: str) -> Path:
    """Return where the result goes: ``RUN/evaluations/DATA-SPLIT.json`` beside ``RUN/model``."""
    return model.parent / "evaluations" / f"{data.name}-{split}.json"


class Evaluation(Open):
    """What everybody reads of a result file: the error, and of which data it is; earlier versions did not say all."""

    rel_l2: float
    system: str | None = None
    range: tuple[float, float] | None = None
    grid: int | None = None
    count: int | None = None
    content: str | None = None


def read_evaluation(path: Path) -> Evaluation:
    """Return what a result file says; UserError where it is missing or none."""
    return parse(Evaluation, read_json(path), str(path))


def read_error(path: Path) -> float:
    """Return the mean relative L2 error in a result file; UserError where it is missing or none."""
    return read_evaluation(path).rel_l2


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
    Raises UserError where the folder is no model, the data no data folder, or the two do not fit.
    """
    folder = open_model_folder(model)
    manifest = read_manifest(data)
    samples = SampleSet(data, split, columns=folder.scales.columns)
    check_grid(folder.architecture.modes, manifest.grid, manifest.grid, trained=True)
    operator = load_operator(model).to(device)
    with torch.no_grad():
        measured = measure(operator, samples, world, device, between=between)
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
            save_figure(figure, output.with_suffix(".png"))
            write_json(output, result)  # last: who finds it finds the picture too
            return 0.0

        decided_by_main(world, device, publish)
    return result
