"""What the tests of generation share: a small request, and what a data folder holds."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

SMALL = ["system=poisson", "range=[1,5]", "grid=16", "train=37", "valid=9", "test=8", "shard_samples=8"]


def contents(folder):
    """Return a hash of every HDF5 file and everything in the manifest except when and by what it was made."""
    files = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.h5")}
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("provenance")
    assert not list(folder.rglob(".aside-*"))
    return files, manifest


def rank_processes(folder):
    """Return the processes that make this folder, without their launcher, as a scheduler would signal them."""
    found = []
    for process in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [process] if words[1:3] == ["-m", "fmsci"] and f"output={folder}" in words else []
    return found


def stop(processes):
    """Stop them where they are and wait until they stand: a signal arrives a moment after it was sent."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    threads = [path / "stat" for process in processes for path in Path(f"/proc/{process}/task").iterdir()]
    deadline = time.monotonic() + 20
    while any(path.read_text().rpartition(")")[2].split()[0] != "T" for path in threads):
        assert time.monotonic() < deadline, "a stopped process goes on"
        time.sleep(0.01)
