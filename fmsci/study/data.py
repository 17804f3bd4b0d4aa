"""The data folders of a study: which there are, which it makes, and what each holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmsci.config import GenerateSettings, StudySettings, assign, load_settings
from fmsci.errors import UserError
from fmsci.pde.arguments import find_system
from fmsci.shards import read_manifest
from fmsci.shards.content import content_hash, made_data
from fmsci.shards.layout import MANIFEST
from fmsci.study.identity import planned_data
from fmsci.study.jobs import Tested

UNKNOWN: dict[str, Any] = {"grid": 0, "counts": {"train": 0, "valid": 0, "test": 0}}
"""What is known of data that are not there yet and that the study does not make."""


@dataclass(frozen=True)
class Source:
    """A data folder that the study makes: ``fmsci generate CONFIG OVERRIDES``."""

    config: Path
    overrides: tuple[str, ...]
    settings: GenerateSettings

    @property
    def num_bytes(self) -> int:
        """Bytes of its fields, which are nearly all of it."""
        s = self.settings
        return (s.train + s.valid + s.test) * 2 * s.grid**2 * 4


class DataFolders:
    """What the data folders hold, whether they are there already or are still to be made.

    Raises UserError where two configurations make one folder, or a folder holds other data than its configuration says.
    """

    def __init__(self, settings: StudySettings) -> None:
        self.sources = {source.settings.output: source for source in _sources(settings)}
        self._known: dict[Path, dict[str, Any]] = {}

    def __getitem__(self, folder: Path) -> dict[str, Any]:
        """Return what decides every sample of a folder; :data:`UNKNOWN` where it is still to come, of a job before."""
        if folder not in self._known:
            self._known[folder] = self._look(folder)
        return self._known[folder]

    def knows(self, folder: Path) -> bool:
        """Tell whether a folder is there, or made by the study."""
        return self[folder] != UNKNOWN

    def columns(self, folder: Path) -> tuple[str, ...]:
        """Return the names of a folder's coefficients; none where the data are still to come."""
        return find_system(self[folder]["system"]).columns if self.knows(folder) else ()

    def tested(self, folder: Path) -> Tested | None:
        """Return what an error on a folder's test split has to say of itself; None where the data are still to come."""
        if not self.knows(folder):
            return None
        facts = self[folder]
        system, ends, grid, count = facts["system"], facts["range"], facts["grid"], facts["counts"]["test"]
        return Tested(system, tuple(ends), grid, count, content_hash(facts))

    def check(self, folder: Path) -> None:
        """Raise UserError where a folder is neither there nor made by the study."""
        if not self.knows(folder):
            raise UserError(
                f"there are no data in {folder}; make them with fmsci generate, or name their configuration in "
                "data.configs of the study"
            )

    def _look(self, folder: Path) -> dict[str, Any]:
        source = self.sources.get(folder)
        if not (folder / MANIFEST).exists():
            return UNKNOWN if source is None else planned_data(source.settings)
        made = made_data(read_manifest(folder))
        wanted = made if source is None else planned_data(source.settings)
        if source is not None and made != wanted:
            differing = [name for name in wanted | made if made.get(name) != wanted.get(name)]
            raise UserError(
                f"{folder} holds other data than {source.config} says ({', '.join(differing)}); choose another "
                "data.folder, or remove it"
            )
        return made


def _sources(settings: StudySettings) -> list[Source]:
    found: dict[Path, Source] = {}
    for config in settings.data.configs:
        overrides = settings.data.overrides
        made = load_settings(GenerateSettings, config, overrides)
        if settings.data.folder is not None:
            overrides = (*overrides, assign("output", settings.data.folder / made.output.name))
            made = load_settings(GenerateSettings, config, overrides)
        if made.output in found:
            raise UserError(f"{config} and {found[made.output].config} make the same data folder {made.output}")
        for other in found:
            if other.name == made.output.name:  # jobs, logs and results are filed under it
                raise UserError(f"{config} makes {made.output} and {found[other].config} {other}: name one otherwise")
        found[made.output] = Source(config, overrides, made)
    return list(found.values())
