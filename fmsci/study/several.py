"""Several studies as one: the settings on the command line are for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fmsci.config import StudySettings, load_settings
from fmsci.errors import UserError

ONE_EACH = "run"
"""What no two studies may have in common."""

DOWNSTREAM = ("samples", "tasks")
"""What a study of recipes, with no runs downstream, may not have."""


def load_studies(configs: Sequence[Path], overrides: Sequence[str]) -> list[StudySettings]:
    """Return the settings of studies, each with the overrides that it knows: those of downstream runs pass a recipe by.

    Raises UserError where several would get one folder.
    """
    if len(configs) == 1:
        return [load_settings(StudySettings, configs[0], overrides)]
    for word in overrides:
        if word.partition("=")[0] == ONE_EACH:
            raise UserError(f"'{word}' is for one study, not for {len(configs)}: each has a folder of its own")
    studies = [_load(config, overrides) for config in configs]
    for at, one in enumerate(studies):
        for before, other in zip(configs[:at], studies[:at], strict=True):
            if one.run == other.run:
                raise UserError(f"{before} and {configs[at]} have the same folder {one.run}; give each its own run")
    return studies


def _load(config: Path, overrides: Sequence[str]) -> StudySettings:
    others = [word for word in overrides if word.partition("=")[0].partition(".")[0] not in DOWNSTREAM]
    try:
        if load_settings(StudySettings, config, others).study == "recipe":
            return load_settings(StudySettings, config, others)
    except UserError:  # it needs what was left out, or is wrong: it is told so with all of them
        pass
    return load_settings(StudySettings, config, overrides)
