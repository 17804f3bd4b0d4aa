"""What decides every sample of a data folder, wherever it lies and however it is cut into files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fmsci.shards.manifest import Manifest


def made_data(manifest: Manifest) -> dict[str, Any]:
    """Return what decides every sample of a finished data folder; of imported data, which have no seed, checksums."""
    facts: dict[str, Any] = {
        "system": manifest.system,
        "range": list(manifest.range),
        "grid": manifest.grid,
        "seed": manifest.seed,
        "options": dict(manifest.options),
        "counts": {name: split.count for name, split in manifest.splits.items()},
    }
    if manifest.seed is None:
        facts["checksums"] = [shard.checksum for split in manifest.splits.values() for shard in split.shards]
    elif manifest.revision:
        facts["revision"] = manifest.revision
    return facts


def content_hash(facts: Mapping[str, Any]) -> str:
    """Return a short hash of what decides every sample of a data folder."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
