"""The settings that a run folder was made with, against those that are wanted now. No torch: studies ask often."""

from __future__ import annotations

from typing import Any

from fmsci.config import Open, TrainSettings, dump_settings, load_settings, parse
from fmsci.errors import SettingsError
from fmsci.files import read_json, taken, write_json, write_text
from fmsci.locks import LOCK
from fmsci.shards import read_manifest
from fmsci.shards.content import made_data
from fmsci.shards.layout import MANIFEST
from fmsci.train.origin import model_hash
from fmsci.train.outcome import RESULT

MAY_CHANGE = {"run", "engine", "checkpoint", "monitor", "data.cache", "data.prefetch"}
"""What a restart may change: it decides how and how often, not on what and towards what the model is trained."""

BEFORE_IT_STARTS = ("log.txt", "slurm_job", "*.log", "*.sbatch")
"""What a study or a job script puts into a run folder before the run has its first moment there."""

DATA = "data.json"
"""What the data of a run hold: they may move, but they may not become others."""

ORIGIN = "init.json"
"""The hash of the model that a run starts from: it may move, too, and counts until the run has a checkpoint."""


class Origin(Open):
    """``init.json``."""

    model: str


def record(settings: TrainSettings) -> None:
    """Write into the run folder what it is made with."""
    write_json(settings.run / DATA, _held(settings))
    if settings.init is not None and not (settings.run / "config.yaml").exists():  # it begins with what is there now
        write_json(settings.run / ORIGIN, {"model": model_hash(settings.init)})
    write_text(settings.run / "config.yaml", dump_settings(settings))


def check_recorded(settings: TrainSettings) -> None:
    """Raise SettingsError where the run folder holds a run with other settings (results would be mixed), or no run."""
    path = settings.run / "config.yaml"
    if not path.exists():
        held = None if (settings.run / LOCK).exists() else taken(settings.run, BEFORE_IT_STARTS)
        if held is not None:
            raise SettingsError(f"{held}; choose another run=")
        return
    before = load_settings(TrainSettings, path)
    recorded, wanted = before.model_dump(mode="json"), settings.model_dump(mode="json")
    moved = before.data.folders != settings.data.folders
    held = read_json(settings.run / DATA) if (settings.run / DATA).exists() else None
    if moved and held is not None and held == _held(settings):
        for one in (recorded["data"], wanted["data"]):
            _forget_places(one)
    if before.init != settings.init and _same_origin(settings):
        recorded["init"] = wanted["init"] = None
    for key, old, new in _differences(recorded, wanted):
        if MAY_CHANGE.isdisjoint({key, key.split(".")[0]}):
            raise SettingsError(
                f"{settings.run} holds a run with {key}={_shown(old)}, not {_shown(new)}; "
                "choose another run= or remove it"
            )
    if not moved and held is not None:
        _check_data(settings, held)
    if before.init == settings.init and not _has_trained(settings) and _same_origin(settings) is False:
        raise SettingsError(
            f"{settings.run} holds a run from another model than {settings.init} is now; "
            "choose another run= or remove it"
        )


def _check_data(settings: TrainSettings, held: Any) -> None:
    """Raise SettingsError where a data folder at the same place holds others by now.

    One that is gone is not asked: a finished run needs none, and whoever trains is told by what opens it.
    """
    folders = settings.data.folders
    known = held if isinstance(held, list) and len(held) == len(folders) else [None] * len(folders)
    for folder, old in zip(folders, known, strict=True):
        if not (folder / MANIFEST).exists():
            continue
        new = made_data(read_manifest(folder))
        if old != new:
            facts = _differences(new, old) if isinstance(old, dict) else []
            which = f" ({_told(*facts[0])})" if facts else ""
            raise SettingsError(
                f"{settings.run} holds a run on other data than {folder} holds now{which}; "
                "choose another run= or remove it"
            )


def _told(key: str, new: Any, old: Any) -> str:
    return f"{key} {_shown(new)}, not {_shown(old)}" if key != "checksums" else "other samples"


def _has_trained(settings: TrainSettings) -> bool:
    """Tell whether the run has a checkpoint, or is finished and keeps none: it does not need ``init`` any more."""
    return (settings.run / RESULT).exists() or any((settings.run / "checkpoints").glob("step-*"))


def _held(settings: TrainSettings) -> list[dict[str, Any]]:
    return [made_data(read_manifest(folder)) for folder in settings.data.folders]


def _same_origin(settings: TrainSettings) -> bool | None:
    """Tell whether ``init`` is the model that the run began with; None where that is not known."""
    path = settings.run / ORIGIN
    if settings.init is None or not path.exists():
        return None
    return parse(Origin, read_json(path), str(path)).model == model_hash(settings.init)


def _forget_places(data: dict[str, Any]) -> None:
    for one in (data, *(data["mixture"] or ())):
        one["path"] = None


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for key in new:
        before, after = old.get(key), new[key]
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append((f"{prefix}{key}", before, after))
    return found
