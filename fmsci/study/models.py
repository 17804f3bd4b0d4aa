"""The pretrained models of a study, and the architecture that a run from scratch shares with each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fmsci.config import TrainSettings
from fmsci.model.sizes import DEFAULT_LAYERS, SIZES, Architecture, architecture
from fmsci.model_folder.reading import open_model_folder
from fmsci.pde import NAMES
from fmsci.train.origin import model_hash
from fmsci.train.outcome import RESULT

UNKNOWN = "unknown"
"""The hash of a model that is not there yet."""

HOW_TO_MAKE = "make it first with fmsci train, or let the study do so (models.NAME.train)"
"""What to do where a model is missing."""


@dataclass(frozen=True)
class Model:
    """A pretrained model: where it is or will be, and what a run from scratch needs to be its equal."""

    name: str
    folder: Path
    key: str
    """The hash of all that it depends on."""
    shape: Architecture
    """Its architecture, with one input channel."""
    settings: dict[str, Any]
    """``model`` of a run from scratch with that architecture."""
    label: str
    """The architecture's name: a size of the dial, else width, modes and layers."""
    tasks: tuple[str, ...]
    ready: Path
    """The file that is there once the model is whole."""
    mixed: bool = False
    """Whether it was pretrained on several systems."""


def pretrained_model(name: str, folder: Path, key: str, trained: TrainSettings, tasks: tuple[str, ...]) -> Model:
    """Return a model that the study trains; ``folder`` is its run's model folder."""
    given = trained.model.model_dump(exclude_unset=True)
    dial = {part: given.pop(part, None) for part in ("size", "width", "modes", "layers")}
    made = _model(name, folder, key, architecture(1, **dial), given, tasks, folder.parent / RESULT)
    return replace(made, mixed=trained.data.mixture is not None)


def existing_model(name: str, folder: Path, tasks: tuple[str, ...]) -> Model:
    """Return a model that the study does not make; one that is still to come, of a job before, is unknown.

    Raises UserError where the folder holds something else.
    """
    if not (folder / "config.json").exists():
        return Model(name, folder, UNKNOWN, architecture(1), {}, name, tasks, folder / "config.json")
    key = model_hash(folder, HOW_TO_MAKE)
    opened = open_model_folder(folder)
    shape = replace(opened.architecture, in_channels=1)
    found = _model(name, folder, key, shape, {}, tasks, folder / "config.json")
    return replace(found, mixed=opened.config.coefficients == tuple(NAMES))


def _model(
    name: str,
    folder: Path,
    key: str,
    shape: Architecture,
    more: dict[str, Any],
    tasks: tuple[str, ...],
    ready: Path,
) -> Model:
    settings = {"width": shape.width, "modes": shape.modes, "layers": shape.layers, **more}
    dial = {dims: size for size, dims in SIZES.items() if shape.layers == DEFAULT_LAYERS}
    label = dial.get((shape.width, shape.modes), f"w{shape.width}m{shape.modes}l{shape.layers}")
    label += "".join(f"_{value}" for value in more.values())
    return Model(name, folder, key, shape, settings, label, tasks, ready)
