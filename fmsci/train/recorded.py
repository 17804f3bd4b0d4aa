"""The settings that a run folder was made with, against those that are wanted now. No torch: studies ask often."""

from __future__ import annotations

from typing import Any

from fmsci.config import Open, TrainSettings, dump_settings, load_settings, parse
from fmsci.errors import SettingsError
from fmsci.files import read_json, taken, write_json, write_text
from fmsci.locks import LOCK
from fmsci.shards import read_manifest
from fmsci.shards.content import made_data
from fmsci.train.origin import model_hash

MAY_CHANGE = {"run", "engine", "checkpoint", "monitor", "data.cache", "data.prefetch"}
"""What a restart may change: it decides how and how often, not on what and towards what the model is trained."""

BEFORE_IT_STARTS = ("log.txt", "slurm_job", "*.log", "*.sbatch")
"""What a study or a job script puts into a run folder before the run has its first moment there."""

DATA = "data.json"
"""What the data of a run hold: they may move, but they may not become others."""

ORIGIN = "init.json"
"""The hash of the model that a run starts from: it may move, too."""


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
    moved = before.data.folders != settings.data.folders and (settings.run / DATA).exists()
    if moved and read_json(settings.run / DATA) == _held(settings):
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


def _held(settings: TrainSettings) -> list[dict[str, Any]]:
    return [made_data(read_manifest(folder)) for folder in settings.data.folders]


def _same_origin(settings: TrainSettings) -> bool:
    path = settings.run / ORIGIN
    if settings.init is None or not path.exists():
        return False
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
