"""Checkpoints and model folders: named, published whole, verified when read; keep the newest k. No pickle anywhere.

``RUN/checkpoints/step-NNNNNNNN/`` holds what the engine wrote, ``state.json`` (the position) and, written last,
``COMPLETE`` with every file's size and checksum. A folder without it, or with another content, is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fmsci.errors import UserError
from fmsci.files import ASIDE_PREFIX, publish_folder, read_json
from fmsci.terminal import warn

COMPLETE = "COMPLETE"
STATE = "state.json"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors."""
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a safetensors file; UserError where it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"there is no weights file {path}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"the weights file {path} is damaged: {error}") from None


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the folder of the checkpoint after ``step`` optimizer steps."""
    return run / "checkpoints" / f"step-{step:08d}"


def save_checkpoint(run: Path, step: int, state: Mapping[str, Any], write: Callable[[Path], None], keep: int) -> Path:
    """Publish a checkpoint (``write`` puts the engine's files into the folder given), then drop all but ``keep``."""
    path = checkpoint_path(run, step)
    with publish_folder(path) as folder:
        write(folder)
        (folder / STATE).write_text(json.dumps(state, indent=2) + "\n")
        files = {
            item.relative_to(folder).as_posix(): _fingerprint(item)
            for item in sorted(folder.rglob("*"))
            if item.is_file()
        }
        (folder / COMPLETE).write_text(json.dumps({"format": 1, "files": files}, indent=2) + "\n")
    for _, old in _numbered(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for leftover in (run / "checkpoints").glob(f"{ASIDE_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return path


def newest_checkpoint(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest complete checkpoint and its state, or None; damaged ones are named in a warning and skipped."""
    for _, path in reversed(_numbered(run)):
        damage = _damage(path)
        if damage is None:
            state: dict[str, Any] = read_json(path / STATE)
            return path, state
        warn(f"the checkpoint {path} is damaged ({damage}); taking the one before")
    return None


def _numbered(run: Path) -> list[tuple[int, Path]]:
    folder = run / "checkpoints"
    found = [(re.fullmatch(r"step-(\d{8,})", item.name), item) for item in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match[1]), item) for match, item in found if match and item.is_dir())


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": _sha256(stream)}


def _sha256(stream: Any) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, or None."""
    try:
        files = read_json(path / COMPLETE)["files"]
        for name, expected in files.items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if _fingerprint(path / name) != expected:
                return f"{name} has changed"
        read_json(path / STATE)
    except (UserError, KeyError, TypeError, AttributeError, OSError) as error:
        return str(error)
    return None
