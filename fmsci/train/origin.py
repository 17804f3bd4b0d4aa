"""The model that a run starts from, by what it holds and not by where it lies. No torch: studies ask often."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from fmsci.errors import UserError
from fmsci.files import regular_file

HASH_CHARACTERS = 8


def model_hash(folder: Path, remedy: str = "give a model folder such as RUN/model") -> str:
    """Return the hash of a model folder's weights and facts; UserError with ``remedy`` where it is none."""
    names = ("config.json", "normalization.json", "model.safetensors")
    try:
        stamps = tuple((name, *_stamp(folder / name)) for name in names)
    except OSError:
        raise UserError(f"there is no model in {folder}; {remedy}") from None
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
