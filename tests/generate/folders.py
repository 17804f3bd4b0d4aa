"""What the tests of generation share: a small request, and what a data folder holds."""

import hashlib
import json

SMALL = ["system=poisson", "range=[1,5]", "grid=16", "train=37", "valid=9", "test=8", "shard_samples=8"]


def contents(folder):
    """Return a hash of every HDF5 file and everything in the manifest except when and by what it was made."""
    files = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.h5")}
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("provenance")
    assert not list(folder.rglob(".aside-*"))
    return files, manifest
