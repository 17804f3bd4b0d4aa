"""Checkpoints: named, published whole, verified when read; the newest k and chosen ones are kept. No pickle anywhere.

``RUN/checkpoints/step-NNNNNNNN/`` holds what the engine wrote, ``state.json`` (the position) and, written last,
``COMPLETE`` with every file's size and checksum. A folder without it, or with another content, is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fmsci.config import Schema, parse
from fmsci.errors import UserError
from fmsci.files import ASIDE_PREFIX, discard, publish_folder, read_json, regular_file
from fmsci.terminal import warn

FORMAT_VERSION = 1
COMPLETE = "COMPLETE"
STATE = "state.json"


class FileRecord(Schema):
    """One file in ``COMPLETE``."""

    bytes: int
    sha256: str


class CompleteDocument(Schema):
    """``COMPLETE``: every other file of the checkpoint, by its path inside the folder."""

    format: Literal[1]
    files: dict[str, FileRecord]


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the folder of the checkpoint after ``step`` optimizer steps."""
    return run / "checkpoints" / f"step-{step:08d}"


def save_checkpoint(
    run: Path,
    step: int,
    state: Mapping[str, Any],
    write: Callable[[Path], None],
    keep: int,
    stays: Callable[[int], bool] = lambda step: False,
) -> Path:
    """Publish a checkpoint (``write`` puts the engine's files into the folder given), then drop all but ``keep``.

    Beside the newest ``keep`` remain those of the steps for which ``stays`` is true. Those of later steps go: a run
    only comes to save ``step`` after them where it could not continue from them.
    """
    path = checkpoint_path(run, step)
    with publish_folder(path) as folder:
        write(folder)
        (folder / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        files = {
            item.relative_to(folder).as_posix(): _fingerprint(item)
            for item in sorted(folder.rglob("*"))
            if item.is_file()
        }
        document = CompleteDocument(format=FORMAT_VERSION, files=files)
        (folder / COMPLETE).write_text(document.model_dump_json(indent=2) + "\n", encoding="utf-8")
    found = _numbered(run)
    kept = [path for number, path in found if number <= step][-keep:]
    kept += [path for number, path in found if number <= step and stays(number)]
    for _, old in found:
        if old not in kept:
            discard(old)
    for leftover in (run / "checkpoints").glob(f"{ASIDE_PREFIX}*"):
        discard(leftover)
    return path


def newest_checkpoint(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest complete checkpoint and its state, or None; damaged ones are named in a warning and skipped.

    Raises UserError where the newest was written by a version with another format: skipping it would lose its work.
    """
    for _, path in reversed(_numbered(run)):
        damage = _damage(path)
        if damage is None:
            state: dict[str, Any] = read_json(path / STATE)
            return path, state
        warn(f"the checkpoint {path} is damaged ({damage}); looking for the one before")
    return None


def _numbered(run: Path) -> list[tuple[int, Path]]:
    folder = run / "checkpoints"
    found = [(re.fullmatch(r"step-(\d{8,})", item.name), item) for item in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match[1]), item) for match, item in found if match and item.is_dir())


def _fingerprint(path: Path) -> FileRecord:
    digest = hashlib.sha256()
    with regular_file(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return FileRecord(bytes=path.stat().st_size, sha256=digest.hexdigest())


def _damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, or None."""
    try:
        record = read_json(path / COMPLETE)
    except UserError as error:
        return str(error)
    version = record.get("format") if isinstance(record, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"the checkpoint {path} has format {version}, this fmsci reads {FORMAT_VERSION}: continue with the version "
            "that wrote it, or remove it to continue from the one before"
        )
    try:
        return _difference(path, parse(CompleteDocument, record, COMPLETE).files)
    except (UserError, ValueError, OSError) as error:
        return str(error)


def _difference(path: Path, files: Mapping[str, FileRecord]) -> str | None:
    """Say where a folder differs from what ``COMPLETE`` lists, or None."""
    if STATE not in files:
        return f"{COMPLETE} does not list {STATE}"
    for name, expected in files.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            return f"{COMPLETE} lists {name!r}, which is not a file of this folder"
        if not (path / inside).is_file():
            return f"{name} is missing"
        if not (path / inside).resolve().is_relative_to(path.resolve()):
            return f"{name} is a link that leads out of the checkpoint"
        if _fingerprint(path / inside) != expected:
            return f"{name} has changed"
    return None
