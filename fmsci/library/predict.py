"""A file of samples through a model: predictions, errors where the truth is known, a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fmsci.errors import ArgumentError, UserError
from fmsci.figures import comparison_figure, contact_sheet, sample_captions, save_figure
from fmsci.files import picture_beside
from fmsci.library.model import FIELD_BYTES, Model
from fmsci.metrics import relative_l2
from fmsci.pde import NAMES, SYSTEMS
from fmsci.shards.foreign import SamplesFile, open_samples
from fmsci.shards.predictions import write_predictions

Array = NDArray[np.float32]
SHOWN = 4
"""Samples in the picture."""


def predict_file(
    model: Model, given: Path, output: Path, tell: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Write the model's predictions for a file of samples, and a picture beside it; return the figures.

    Where the file has the solutions too, each sample's relative L2 error is written, and its mean, median and largest
    are returned. ``outside`` tells which coefficients the model was not trained on, if any. ``tell`` hears how many
    samples are done.

    Raises UserError where the file does not fit the model, or a place is taken or cannot be written.
    """
    picture = picture_beside(output, ".h5")
    samples = open_samples(given)
    if output.resolve() == given.resolve():
        raise UserError(f"--output is the input file {given}; give another one")
    for path in (output, picture):
        if path.exists():
            raise UserError(f"there is {path} already; remove it, or give another --output")
    order = _order(model, samples)
    at_once = max(1, FIELD_BYTES // (16 * samples.shape[0] * samples.shape[1]))
    errors: list[Array] = []
    outside: str | None = None
    shown: tuple[Array, Array, Array] | None = None
    facts = {"model": str(model.path), "input": str(given)}
    columns = model.coefficients
    with write_predictions(output, samples.count, samples.shape, columns, samples.has_solution, facts) as write:
        for first in range(0, samples.count, at_once):
            fields, tensor = samples.read(first, min(at_once, samples.count - first))
            _check_finite(given, first, fields, tensor)
            by_name = {name: tensor[:, at] if at is not None else 0.0 for name, at in order.items()}
            try:
                outside = outside or model.outside(fields[:, 0], **by_name)
                predicted = model.solve_unwarned(fields[:, 0], **by_name)
            except ArgumentError as wrong:
                raise UserError(f"{given}, samples {first} to {first + len(fields) - 1}: {wrong}") from None
            error = _relative_l2(predicted, fields[:, 1]) if samples.has_solution else None
            write(first, predicted, error)
            if error is not None:
                errors.append(error)
            if shown is None:
                shown = fields[:SHOWN], tensor[:SHOWN], predicted[:SHOWN]
            tell(first + len(fields))
    assert shown is not None, "a file has at least one sample"
    _draw(picture, f"{model.path} on {given}", order, *shown)
    result: dict[str, Any] = {
        "count": samples.count,
        "output": str(output),
        "picture": str(picture),
        "outside": outside,
    }
    if errors:
        every = np.concatenate(errors).astype(np.float64)
        result["rel_l2"] = {"mean": every.mean(), "median": np.median(every), "max": every.max()}
        result["rel_l2"] = {name: float(value) for name, value in result["rel_l2"].items()}
        result["worst_sample"] = int(every.argmax())
    return result


def _order(model: Model, samples: SamplesFile) -> dict[str, int | None]:
    """Return for each coefficient of the model its column in the file, None where the file's system has none (0)."""
    wanted = model.coefficients
    named = samples.columns
    if named is None and samples.num_columns == len(wanted):
        return {name: at for at, name in enumerate(wanted)}
    if named is not None and set(named) == set(wanted):
        return {name: named.index(name) for name in wanted}
    if named is not None and samples.system in SYSTEMS and wanted == tuple(NAMES):
        stands_for = dict(zip(SYSTEMS[samples.system].columns, SYSTEMS[samples.system].stands_for, strict=True))
        if set(stands_for) == set(named):
            return {
                name: next((at for at, column in enumerate(named) if name in stands_for[column]), None)
                for name in wanted
            }
    has = ", ".join(named) if named is not None else f"{samples.num_columns} columns without names"
    raise UserError(
        f"{samples.path} has the coefficients {has}, but the model {model.path} takes {', '.join(wanted)}; choose "
        "another model, or name the columns of tensor in the file's attribute 'columns'"
    )


def _check_finite(path: Path, first: int, fields: Array, tensor: Array) -> None:
    bad = ~(np.isfinite(fields).all(axis=(1, 2, 3)) & np.isfinite(tensor).all(axis=1))
    if bad.any():
        raise UserError(
            f"{path}: sample {first + int(bad.argmax())} holds a value that is not finite; mend or remove it"
        )


def _relative_l2(predicted: Array, solution: Array) -> Array:
    """Return the error of each sample (B,), added up in float64."""
    error = relative_l2(torch.from_numpy(predicted).double(), torch.from_numpy(solution).double())
    return np.asarray(error.numpy(), np.float32)


def _draw(path: Path, title: str, order: dict[str, int | None], fields: Array, tensor: Array, predicted: Array) -> None:
    """Draw the first samples: with the truth and the error, or source and prediction alone."""
    present = {name: at for name, at in order.items() if at is not None}
    captions = sample_captions(list(present), tensor[:, list(present.values())])
    if fields.shape[1] == 2:
        figure = comparison_figure(fields[:, 0], fields[:, 1], predicted, title, captions)
    else:
        pairs_of_fields = np.stack((fields[:, 0], predicted), axis=1)
        lines = [caption.replace("\n", ", ") for caption in captions]
        figure = contact_sheet(pairs_of_fields, lines, title)
    save_figure(figure, path)
