"""Do the manifest, the plan and the shards of a data folder say the same?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isclose
from pathlib import Path
from typing import Any

from fmsci.config import parse
from fmsci.errors import UserError
from fmsci.files import read_json
from fmsci.generate.plan import Request
from fmsci.generate.summary import build_manifest
from fmsci.shards.check import Finding
from fmsci.shards.layout import MANIFEST, PLAN
from fmsci.shards.manifest import Manifest

TOLERANCE = 1e-9
"""Relative to the largest figure beside it: another processor adds up in another order."""


def check_manifest(folder: Path, manifest: Manifest) -> list[Finding]:
    """Return where the manifest differs from one built anew from the shards, which must be whole, and from the plan.

    Provenance is not looked at: nothing else knows it.
    """
    records = [shard for record in manifest.splits.values() for shard in record.shards]
    rebuilt = build_manifest(folder, manifest.facts, manifest.shard_samples, records)
    said, found = (one.model_dump(exclude={"provenance"}) for one in (manifest, rebuilt))
    findings = [
        Finding(MANIFEST, f"{where} is {ours} but the shards say {theirs}")
        for where, ours, theirs in _differences(said, found)
    ]
    for split, record in manifest.splits.items():
        counts = [shard.count for shard in record.shards]
        if counts[:-1] != [manifest.shard_samples] * (len(counts) - 1) or counts[-1] > manifest.shard_samples:
            findings.append(
                Finding(MANIFEST, f"shard_samples is {manifest.shard_samples} but the shards of {split} hold others")
            )
    return findings + check_plan(folder, manifest)


def check_plan(folder: Path, manifest: Manifest) -> list[Finding]:
    """Hold the plan against the manifest; imported data have none."""
    if not (folder / PLAN).exists():
        return [] if manifest.seed is None else [Finding(PLAN, "it is missing")]
    try:
        plan = parse(Request, read_json(folder / PLAN), str(folder / PLAN))
    except UserError as error:
        return [Finding(PLAN, str(error))]
    said = plan.model_dump()
    made = manifest.model_dump(include=set(said)) | {
        "counts": {split: record.count for split, record in manifest.splits.items()}
    }
    return [
        Finding(PLAN, f"{where} is {ours} but {MANIFEST} says {theirs}")
        for where, ours, theirs in _differences(said, made)
    ]


def _differences(ours: Any, theirs: Any, where: str = "", scale: float = 0.0) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name and the two values of all that differs between two trees of mappings; numbers of real size only
    by more than TOLERANCE."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        numbers = [abs(value) for value in theirs.values() if isinstance(value, float)]
        for name in dict.fromkeys([*ours, *theirs]):
            place = f"{where}.{name}" if where else str(name)
            yield from _differences(ours.get(name), theirs.get(name), place, max(numbers, default=0.0))
    elif isinstance(ours, float) and isinstance(theirs, float):
        if not isclose(ours, theirs, rel_tol=TOLERANCE, abs_tol=TOLERANCE * scale):
            yield where, ours, theirs
    elif ours != theirs:
        yield where, ours, theirs
