"""Where a training run is: all that the loop changes, listed once. It is saved with every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fmsci.config import Schema, parse
from fmsci.config.sections import Count, Whole
from fmsci.errors import UserError
from fmsci.model.sizes import Architecture
from fmsci.model_folder.documents import ArchitectureDocument, NormalizationDocument


class Position(Schema):
    """``position`` in ``state.json``: the fields of :class:`State`."""

    epoch: Whole
    seen: Whole
    step: Whole
    samples_seen: Whole
    last_rel_l2: float | None
    best_rel_l2: float | None
    best_step: Whole
    elapsed_s: float
    validation_due: bool
    skipped: list[Count]


class ModelFacts(Schema):
    """``model`` in ``state.json``: what its weights are, in the words of a model folder."""

    architecture: ArchitectureDocument
    scales: NormalizationDocument


class Saved(Schema):
    """``state.json`` of a checkpoint: where the run was, and what model it trains."""

    position: Position
    model: ModelFacts


def read_saved(path: Path, document: Any) -> dict[str, Any]:
    """Return the content of a checkpoint's ``state.json``.

    Raises UserError where it is of another version, contradicts the folder's name, or declares a model that the
    weights beside it cannot be: no memory is taken for that.
    """
    saved = parse(Saved, document, f"{path}/state.json")
    weights, facts = path / "model.safetensors", saved.model
    sizes = Architecture(**facts.architecture.model_dump())
    wrong = None
    if saved.position.step != int(path.name.partition("-")[2]):
        wrong = f"it is of step {saved.position.step}"
    elif sizes.in_channels != 1 + len(facts.scales.coefficients):
        wrong = f"{sizes.in_channels} channels are not a source and {len(facts.scales.coefficients)} coefficients"
    elif not weights.is_file() or weights.stat().st_size < 4 * sizes.num_parameters:
        wrong = f"its weights file is too small for {sizes.num_parameters:,} parameters"
    if wrong is not None:
        raise UserError(f"the checkpoint {path} contradicts itself: {wrong}; remove it to continue from the one before")
    return saved.model_dump()


@dataclass
class State:
    """The position of a run. ``seen`` counts the batches done in the current epoch.

    ``validation_due``: it was stopped inside the validation of this step. ``skipped``: steps whose batch makes no
    update, because it gave a gradient that is not finite.
    """

    epoch: int = 0
    seen: int = 0
    step: int = 0
    samples_seen: int = 0
    last_rel_l2: float | None = None
    best_rel_l2: float | None = None
    best_step: int = 0
    elapsed_s: float = 0.0
    validation_due: bool = False
    skipped: list[int] = field(default_factory=list)

    def advance(self, num_samples: int) -> None:
        """Count one optimizer step on a global batch of ``num_samples``."""
        self.seen += 1
        self.step += 1
        self.samples_seen += num_samples

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch += 1
        self.seen = 0

    def validated(self, rel_l2: float) -> bool:
        """Record a validation error; tell whether it is the best so far."""
        self.last_rel_l2 = rel_l2
        if self.best_rel_l2 is not None and not rel_l2 < self.best_rel_l2:
            return False
        self.best_rel_l2, self.best_step = rel_l2, self.step
        return True

    def restore(self, saved: dict[str, Any], epoch_steps: int, num_epochs: int) -> None:
        """Take every field from a checkpoint's ``position``, as :func:`read_saved` gives it.

        Raises UserError where it is no position of a run of so many epochs of so many steps.
        """
        epoch, seen, step = saved["epoch"], saved["seen"], saved["step"]
        if step != epoch * epoch_steps + seen or seen > epoch_steps or step > num_epochs * epoch_steps:
            raise UserError(
                f"the checkpoint of step {step} says {seen} batches of epoch {epoch}, but {num_epochs} epochs have "
                f"{epoch_steps} each; remove the checkpoint to continue from the one before"
            )
        for name, value in saved.items():
            setattr(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain mapping, for ``state.json``."""
        return asdict(self)
