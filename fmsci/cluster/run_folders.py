"""Which folders are run folders, and where the jobs of studies are recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fmsci.config import GenerateSettings, ScalingSettings, StudySettings, TrainSettings, load_settings
from fmsci.config.load import read_document
from fmsci.errors import UserError

JOB_FILE = "slurm_job"
"""In a run folder: the id of the job that trains there, else of the newest that was submitted for it; then how
often that was restarted."""

OF_RUNS = ("config.yaml", JOB_FILE)
"""A folder with one of these is a run folder."""

PIPELINE_FILE = "pipeline.json"
"""In the folder of a study or a scaling run: its jobs, with the logs of every link that was submitted."""


def folder_of(config: Path, overrides: Sequence[str]) -> Path:
    """Return the folder that a settings file of ``fmsci train``, ``generate``, ``study`` or ``scaling`` writes to.

    Raises UserError for what is wrong with the settings.
    """
    document = read_document(config, overrides)
    if "system" in document:
        return load_settings(GenerateSettings, config, overrides).output
    if "world_sizes" in document:
        return load_settings(ScalingSettings, config, overrides).run
    if "study" in document:
        return load_settings(StudySettings, config, overrides).run
    return load_settings(TrainSettings, config, overrides).run


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the run folders among ``folders`` and below them, in order.

    Raises UserError where a folder named is none and holds neither a run nor a pipeline.
    """
    found: list[Path] = []
    for folder in folders:
        inside = [folder]
        if not _is_run(folder):
            inside = sorted(path for path, names in _below(folder) if not names.isdisjoint(OF_RUNS) and _is_run(path))
        if not inside and not find_pipelines([folder]):
            raise UserError(f"{folder} is no run folder and holds none; runs appear there when they start")
        found += inside
    return found


def find_pipelines(folders: Sequence[Path]) -> list[Path]:
    """Return the records of the pipelines whose studies are in ``folders`` or below them, in order."""
    return [
        place / PIPELINE_FILE for folder in folders for place, names in sorted(_below(folder)) if PIPELINE_FILE in names
    ]


def _below(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    """Yield a folder and those below it, each with the names of its files; of one behind a link, those of a run.

    A list of names is one question: a shared file system answers one for each file of a thousand runs slowly.
    """
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError:  # none, or not ours to read
        return
    folders = [entry for entry in entries if _is_folder(entry)]
    yield folder, {entry.name for entry in entries} - {entry.name for entry in folders}
    for entry in folders:
        if entry.is_symlink():
            yield Path(entry), set(OF_RUNS)  # where it leads is not looked further
        else:
            yield from _below(Path(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def was_submitted(run: Path) -> bool:
    """Tell whether a job was ever submitted for a run: of one without, no queue knows."""
    return (run / JOB_FILE).exists()


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in OF_RUNS) and folder.is_dir()
