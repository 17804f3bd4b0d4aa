"""Where a training run is: all that the loop changes, listed once. It is saved with every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fmsci.errors import UserError


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

    def restore(self, saved: dict[str, Any]) -> None:
        """Take every field from a checkpoint's ``position``; UserError where it is of another version."""
        if saved.keys() != asdict(self).keys():
            raise UserError(
                "the checkpoint's position has other fields than this version's; use the version that wrote it"
            )
        for name, value in saved.items():
            setattr(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain mapping, for ``state.json``."""
        return asdict(self)
