"""What studies have made, in few small files: ``python tools/pack_studies.py OUTPUT_FOLDER CONFIG... [KEY=VALUE]...``

OUTPUT_FOLDER/studies.tar.gz: the folder of each study, with report, tables, figures; where it is too large, in parts as
studies/part-000 ... OUTPUT_FOLDER/state/part-000 ...: the run folders, from which the studies go on elsewhere
(cat state/part-* | tar xz); without TensorBoard's files, pictures that no report shows, all but the newest checkpoint
of runs under way, and models that no other run starts from. Where it would be more than --parts files, the largest runs
with weights are left out, which is said. Either is replaced as a whole.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from pathlib import Path

from fmsci.checkpoint import newest_checkpoint
from fmsci.config import StudySettings
from fmsci.files import discard, publish_file, publish_folder
from fmsci.locks import LOCK
from fmsci.study.examples import pictures
from fmsci.study.plan import plan
from fmsci.study.several import load_studies
from fmsci.terminal import amount, say

PART_BYTES = 15_000_000
PACKED = (".safetensors", ".png")
"""What hardly shrinks."""


def units(studies: list[StudySettings]) -> list[list[Path]]:
    """Return what has to be packed together: the files of each run that something continues or starts from; others as
    they are."""
    started_from = {model.folder for one in studies if one.tasks for model in plan(one).models}
    shown = {path for one in studies if one.tasks for path in pictures(plan(one))}
    folders = sorted({folder for one in studies for folder in one.runs_folder.glob("*")})
    return [unit for folder in folders for unit in _of_run(folder, folder / "model" in started_from, shown) if unit]


def _of_run(folder: Path, is_started_from: bool, shown: set[Path]) -> list[list[Path]]:
    finished = (folder / "result.json").exists() and any(folder.glob("evaluations/*.json"))
    newest = None if finished else newest_checkpoint(folder)
    files = []
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder).parts
        if not path.is_file() or place[0] == "tensorboard" or path.name == LOCK:
            continue
        if path.suffix == ".png" and path not in shown:
            continue
        if place[0] == "checkpoints" and (newest is None or newest[0] not in path.parents):
            continue
        if finished and place[0] == "model" and not is_started_from:
            continue
        files.append(path)
    return [files] if is_started_from or newest is not None else [[path] for path in files]


def write_state(packed: list[list[Path]], folder: Path, most: int) -> list[list[Path]]:
    """Publish the units as at most ``most`` parts of one archive; return those left out for that, the largest."""
    by_size = sorted(packed, key=_size)
    left_out: list[list[Path]] = []
    while by_size and sum(map(_size, by_size)) > most * PART_BYTES:
        left_out.append(by_size.pop())
    archive = _archive([path for unit in by_size for path in unit])
    while len(archive) > most * PART_BYTES:  # hardly ever: nothing grows when it is packed
        left_out.append(by_size.pop())
        archive = _archive([path for unit in by_size for path in unit])
    _write_parts(archive, folder)
    return left_out


def write_reports(files: list[Path], output: Path) -> None:
    """Publish the folders of the studies as studies.tar.gz, or as studies/part-000 ... where that is too large."""
    archive = _archive(files)
    whole, parts = output / "studies.tar.gz", output / "studies"
    if len(archive) > PART_BYTES:
        _write_parts(archive, parts)
        discard(whole)
    else:
        with publish_file(whole) as fresh:
            fresh.write_bytes(archive)
        discard(parts)


def _write_parts(archive: bytes, folder: Path) -> None:
    with publish_folder(folder) as fresh:
        for number, start in enumerate(range(0, len(archive), PART_BYTES)):
            (fresh / f"part-{number:03}").write_bytes(archive[start : start + PART_BYTES])


def _size(unit: list[Path]) -> int:
    """Return about how many bytes a unit takes: text shrinks to a fifth, weights hardly."""
    return sum(path.stat().st_size // (1 if path.suffix in PACKED else 5) + 512 for path in unit)


def _archive(files: list[Path]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
        for path in files:
            archive.add(path)
    return stream.getvalue()


def main() -> int:
    """Pack what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("words", nargs="+", metavar="CONFIG or KEY=VALUE")
    parser.add_argument("--parts", type=int, default=1000, help="at most so many files of state")
    given = parser.parse_args()
    overrides = [word for word in given.words if "=" in word]
    studies = load_studies([Path(word) for word in given.words if "=" not in word], overrides)
    reports = [path for one in studies for path in sorted(one.run.glob("*")) if path.is_file()]
    write_reports(reports, given.output)
    left_out = write_state(units(studies), given.output / "state", given.parts)
    for unit in left_out:
        more = "" if len(unit) == 1 else f" and {len(unit) - 1} more of its run, which starts over"
        say(f"left out: {unit[0]}{more} ({amount(sum(path.stat().st_size for path in unit))})")
    say(f"{len(reports)} files of reports and the state of the runs are in {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
