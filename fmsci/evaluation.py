"""The file that an evaluation leaves: where it lies and what it says. No torch: studies and job scripts ask often."""

from __future__ import annotations

from pathlib import Path

from fmsci.config import Open, parse
from fmsci.files import read_json


def evaluation_path(model: Path, data: Path, split: str) -> Path:
    """Return where the result goes: ``RUN/evaluations/DATA-SPLIT.json`` beside ``RUN/model``."""
    return _named(model).parent / "evaluations" / f"{_named(data).name}-{split}.json"


def _named(folder: Path) -> Path:
    """Return a path that ends in the folder's name, also for who stands in it: ``.``, ``..``."""
    return folder.resolve() if folder.name in {"", ".."} else folder


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
