"""How a run ended, ``outcome.json``, and what it came to, ``result.json``: what both say, and who reads them.

No torch here: ``fmsci status`` and studies ask often.
"""

from __future__ import annotations

from pathlib import Path

from fmsci.config import Open, parse
from fmsci.config.sections import Count, Whole
from fmsci.errors import UserError
from fmsci.files import read_json

OUTCOME, RESULT = "outcome.json", "result.json"

DIVERGED = "training diverged"
"""What ``why`` says of a run that ended for this reason; job scripts (slurm/study.sbatch) look for the same words."""


class Outcome(Open):
    """``outcome.json``: how the last start of a run ended, also where its exit code was lost on the way."""

    status: str
    """finished, saved, failed, lost (a rank of another node is gone), or another word of a later version."""
    why: str
    step: Whole = 0

    @property
    def diverged(self) -> bool:
        """Whether training diverged: it would do so again."""
        return self.status == "failed" and DIVERGED in self.why


class Error(Open):
    """``best`` and ``last`` in ``result.json``."""

    valid_rel_l2: float | None
    step: Whole


class Result(Open):
    """``result.json``: what a run that is finished came to."""

    version: str
    steps: Whole
    samples_seen: Whole
    train_samples: Count
    best: Error
    last: Error
    elapsed_s: float
    world_size: Count
    device: str
    device_name: str = "unknown"
    torch: str = "unknown"
    host: str = "unknown"
    num_parameters: Count


def read_outcome(run: Path) -> Outcome | None:
    """Return how the last start of a run ended; None where it has not ended, or without a word.

    Raises UserError where the file is there and does not say it.
    """
    path = run / OUTCOME
    try:
        return parse(Outcome, read_json(path), str(path))
    except UserError:
        if path.exists():
            raise
        return None  # none yet; or removed this very moment, by a start that begins


def read_result(run: Path) -> Result:
    """Return what a finished run came to; UserError where it is not finished, or the file is none of a run."""
    path = run / RESULT
    return parse(Result, read_json(path), str(path))


def best_error(run: Path) -> float:
    """Return the best validation error of a finished run; UserError where it says none."""
    found = read_result(run).best.valid_rel_l2
    if found is None:
        raise UserError(f"{run / RESULT} names no validation error; remove the run folder to repeat the run")
    return found
