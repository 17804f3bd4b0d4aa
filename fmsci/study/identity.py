"""What the result of a run depends on, as a short hash: the same where it is the same, another where anything differs.

Run folders are named by it. So a finished run is never repeated, and a changed setting makes exactly those runs anew
that depend on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fmsci.config import GenerateSettings, TrainSettings
from fmsci.errors import UserError
from fmsci.files import regular_file
from fmsci.pde import SYSTEMS
from fmsci.train.optim import DEFAULT_LR, PAPER_LR

HASH_CHARACTERS = 8
HOW_NOT_WHAT = {
    "run": None,
    "init": None,
    "checkpoint": None,
    "data": {"path", "mixture", "cache", "prefetch"},
    "engine": {"kind", "zero_stage", "offload", "deepspeed_config", "accumulate", "device", "threads"}
    | {"rendezvous_s", "timeout_s", "transform", "recompute", "replay"},
    "monitor": {"every_steps", "pictures"},
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
    return digest(facts)


def model_hash(folder: Path) -> str:
    """Return the hash of a model folder's weights and facts; UserError where it is none."""
    names = ("config.json", "normalization.json", "model.safetensors")
    try:
        stamps = tuple((name, *_stamp(folder / name)) for name in names)
    except OSError:
        raise UserError(
            f"there is no pretrained model in {folder}; make it first with fmsci train, or let the study do so "
            "(models.NAME.train)"
        ) from None
    return _model_hash(folder, stamps)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache
def _model_hash(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Read the files once as long as their stamps stay: a plan is asked for often."""
    seen = hashlib.sha256()
    for name, *_ in stamps:
        with regular_file(folder / name).open("rb") as stream:
            while block := stream.read(1 << 20):
                seen.update(block)
    return seen.hexdigest()[:HASH_CHARACTERS]
