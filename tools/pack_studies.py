"""What studies have made, in few small files: ``python tools/pack_studies.py OUTPUT_FOLDER CONFIG... [KEY=VALUE]...``

OUTPUT_FOLDER/studies.tar.gz: the folder of each study, with report, tables, figures. OUTPUT_FOLDER/state/part-000 ...:
the run folders, from which the studies go on elsewhere (cat state/part-* | tar xz); without TensorBoard's files,
pictures, checkpoints of finished runs, and models that no other run starts from. Where it would be more than --parts
files, the largest weights are left out, which is said. Either is replaced as a whole.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from fmsci.config import StudySettings, load_settings
from fmsci.files import publish_file, publish_folder
from fmsci.study.plan import plan, runs_folder
from fmsci.terminal import amount, say

PART_BYTES = 15_000_000
WEIGHTS = ".safetensors"


def kept(settings: StudySettings) -> Iterator[Path]:
    """Yield the files of a study's runs that its next start needs, or that its report is made of."""
    planned = plan(settings)
    started_from = {model.folder for model in planned.models} if planned.settings.tasks else set()
    for folder in sorted(runs_folder(settings).glob("*")):
        finished = (folder / "result.json").exists() and any(folder.glob("evaluations/*.json"))
        for path in sorted(folder.rglob("*")):
            place = path.relative_to(folder).parts
            if not path.is_file() or place[0] == "tensorboard" or path.suffix == ".png" or path.name == ".lock":
                continue
            if finished and place[0] == "checkpoints":
                continue
            if finished and place[0] == "model" and folder / "model" not in started_from:
                continue
            yield path


def write_state(files: list[Path], folder: Path, most: int) -> list[Path]:
    """Publish the files as parts of one archive; return what was left out so that there are at most ``most`` parts."""
    left_out: list[Path] = []
    by_size = sorted((path for path in files if path.suffix == WEIGHTS), key=lambda path: path.stat().st_size)
    while True:
        packed = _archive([path for path in files if path not in left_out])
        if len(packed) <= most * PART_BYTES or not by_size:
            break
        left_out.append(by_size.pop())
    with publish_folder(folder) as fresh:
        for number, start in enumerate(range(0, len(packed), PART_BYTES)):
            (fresh / f"part-{number:03}").write_bytes(packed[start : start + PART_BYTES])
    return left_out


def _archive(files: list[Path]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=3) as archive:
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
    studies = [load_settings(StudySettings, Path(word), overrides) for word in given.words if "=" not in word]
    reports = [path for one in studies for path in sorted(one.run.glob("*")) if path.is_file()]
    with publish_file(given.output / "studies.tar.gz") as fresh:
        fresh.write_bytes(_archive(reports))
    files = list(dict.fromkeys(path for one in studies for path in kept(one)))
    left_out = write_state(files, given.output / "state", given.parts)
    for path in left_out:
        say(f"left out: {path} ({amount(path.stat().st_size)})")
    say(f"{len(reports)} files of reports and {len(files) - len(left_out)} of runs are in {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
