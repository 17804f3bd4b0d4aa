"""What the result of a run depends on, as a short hash: the same where it is the same, another where anything differs.

Run folders are named by it. So a finished run is never repeated, and a changed setting makes exactly those runs anew
that depend on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmsci.config import GenerateSettings, TrainSettings
from fmsci.errors import UserError
from fmsci.pde import REVISION as DATA_REVISION
from fmsci.pde import SYSTEMS
from fmsci.train.learning_rate import DEFAULT_LR, PAPER_LR
from fmsci.train.origin import HASH_CHARACTERS

REVISION = 0
"""Raised by hand when the same settings come to train differently (beyond rounding): all runs are then made anew. 0 is
not hashed. Samples have their own: :data:`fmsci.pde.REVISION`."""

HOW_NOT_WHAT = {
    "run": None,
    "init": None,
    "checkpoint": None,
    "data": {"path", "mixture", "cache", "prefetch"},
    "engine": {"kind", "zero_stage", "offload", "deepspeed_config", "accumulate", "device", "threads"}
    | {"rendezvous_s", "timeout_s", "transform", "recompute", "replay"},
    "monitor": {"every_steps", "pictures", "profile", "wandb"},
}
"""Settings that decide where, how fast and on how many devices, but not (beyond rounding) what comes out; None: all
of a section. The data and ``init`` are left out because what they hold counts, not where it lies."""


def digest(facts: Any) -> str:
    """Return the hash of anything that JSON can hold."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARACTERS]


def planned_data(settings: GenerateSettings) -> dict[str, Any]:
    """Return what decides every sample of a data folder that is still to be made: the same as
    :func:`fmsci.shards.content.made_data`'s.

    Raises UserError for an unknown system.
    """
    if settings.system not in SYSTEMS:
        raise UserError(f"unknown system '{settings.system}'; there is {', '.join(SYSTEMS)}")
    defaults = {name: choices[0] for name, choices in SYSTEMS[settings.system].options.items()}
    return {
        "system": settings.system,
        "range": [float(end) for end in settings.range],
        "grid": settings.grid,
        "seed": settings.seed,
        "options": defaults | settings.options,
        "counts": {"train": settings.train, "valid": settings.valid, "test": settings.test},
        **({"revision": DATA_REVISION} if DATA_REVISION else {}),
    }


def run_hash(settings: TrainSettings, data: Mapping[Path, Mapping[str, Any]], init: str | None) -> str:
    """Return the hash of a training run.

    ``data`` tells what each of its data folders holds, ``init`` is the hash of the model that it starts from. Settings
    at their defaults do not count: a setting that a later version adds leaves the hashes as they are.
    """
    facts = settings.model_dump(mode="json", exclude_defaults=True)
    for section, names in HOW_NOT_WHAT.items():
        if names is None:
            facts.pop(section, None)
        else:
            left = {name: value for name, value in facts.pop(section, {}).items() if name not in names}
            facts |= {section: left} if left else {}
    if settings.optim.lr is None:
        facts["rates"] = [PAPER_LR, *DEFAULT_LR]
    parts = settings.data.mixture or ()
    facts["samples"] = [data[folder] for folder in settings.data.folders]
    facts["mixture"] = [[part.weight, part.train_samples] for part in parts]
    facts["from"] = init
    if REVISION:
        facts["revision"] = REVISION
    return digest(facts)
