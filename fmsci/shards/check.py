"""Tell whether a shard, or a whole data folder, is complete and undamaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fmsci.files import ASIDE_PREFIX
from fmsci.locks import LOCK
from fmsci.shards.checksum import verify_checksum
from fmsci.shards.layout import MANIFEST, PLAN, SHEET, ShardLayout, split_name
from fmsci.shards.manifest import ShardRecord, read_manifest
from fmsci.shards.plain import inside, open_hdf5, plain
from fmsci.shards.reader import UNREADABLE
from fmsci.shards.virtual import virtual_is_right


def inspect_shard(folder: Path, layout: ShardLayout) -> ShardRecord | str:
    """Return the record of a shard, or a sentence saying why it does not serve.

    Reads every byte: the checksum in the file's first line must be the one of what follows, and the datasets and
    attributes must be those of ``layout``.
    """
    path = folder / layout.file
    try:
        size = inside(folder, layout.file).stat().st_size
        found = verify_checksum(path)
        if found is None:
            return "its content does not belong to its checksum"
        wrong = _differs(path, layout)
    except FileNotFoundError:
        return "it is missing"
    except UNREADABLE as error:
        return f"it cannot be read ({error})"
    if wrong is not None:
        return wrong
    return ShardRecord(file=layout.file, first=layout.first, count=layout.count, bytes=size, checksum=found)


def _differs(path: Path, layout: ShardLayout) -> str | None:
    """Return how a shard's datasets or attributes differ from the layout, or None."""
    with open_hdf5(path) as file:
        for key, wanted in layout.attributes.items():
            if key not in file.attrs:
                return f"the attribute {key} is missing"
            given = file.attrs[key]
            if key != "code_version" and not np.array_equal(given, wanted):
                return f"the attribute {key} is {np.asarray(given).tolist()} instead of {np.asarray(wanted).tolist()}"
        for name, (shape, dtype) in layout.datasets().items():
            try:
                plain(file, name, shape, dtype)
            except (KeyError, ValueError) as error:
                return str(error.args[0])
    return None


FOREIGN = "it does not belong here"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a file of a data folder."""

    file: str
    problem: str


def check_folder(folder: Path, tell: Callable[[int], None] = lambda num_bytes: None) -> list[Finding]:
    """Return everything that is wrong with a data folder; reads every byte of every shard.

    ``tell`` hears the bytes of each shard that was read. Raises UserError where there is no manifest, or it is not one.
    """
    manifest = read_manifest(folder)
    findings: list[Finding] = []
    for split, record in manifest.splits.items():
        wrong = manifest.contradiction(split)
        findings += [] if wrong is None else [Finding(MANIFEST, wrong)]
        for index, shard in enumerate(record.shards):
            problem = _check_shard(folder, manifest.facts.shard(split, index, shard.first, shard.count), shard)
            if problem is not None:
                findings.append(Finding(shard.file, problem))
            tell(shard.bytes)
        if not virtual_is_right(folder, manifest, split):
            findings.append(Finding(split_name(split), "it does not show the shards of its split"))
    known = {MANIFEST, PLAN, LOCK, SHEET, *map(split_name, manifest.splits)}
    known |= {shard.file for record in manifest.splits.values() for shard in record.shards}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name not in known:
            unfinished = path.name.startswith(ASIDE_PREFIX)
            findings.append(Finding(name, "unfinished work" if unfinished else FOREIGN))
    return findings


def _check_shard(folder: Path, layout: ShardLayout, record: ShardRecord) -> str | None:
    """Return what is wrong with a shard, or None."""
    if layout.file != record.file:
        return f"the manifest names it where {layout.file} should be"
    path = folder / record.file
    if path.exists() and path.stat().st_size != record.bytes:
        return f"it has {path.stat().st_size:,} bytes instead of {record.bytes:,}"
    found = inspect_shard(folder, layout)
    if isinstance(found, str):
        return found
    return None if found == record else f"its checksum is {found.checksum} but the manifest says {record.checksum}"
