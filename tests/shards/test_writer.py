"""What HDF5 lays out in memory leaves nothing there, and is the same however the system keeps it."""

import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from fmsci.shards import writer
from fmsci.shards.layout import FIGURES, DataFacts

OPEN = Path("/proc/self/fd")
LINUX = hasattr(os, "memfd_create") and OPEN.is_dir()


def layout(count=5, grid=16):
    facts = DataFacts("helmholtz", (1.0, 3.0), grid, ("k11", "w"), (), 3, 0, {"w": "integer", "redraw": "all"})
    return facts.shard("train", 0, 0, count)


def num_open():
    return len(list(OPEN.iterdir())) if LINUX else 0


def written(folder, count):
    """Return the bytes of a shard of zeros."""
    with writer.open_shard(folder, layout(count)) as shard:
        rows = {name: np.zeros(count, dtype) for name, dtype in FIGURES.items()} | {"tensor": np.zeros((count, 2))}
        shard.append(np.zeros((count, 2, 16, 16), np.float32), rows)
        shard.finish({"acceptance": np.zeros((3, 3))})
    return (folder / "train/shard-00000.h5").read_bytes()


@pytest.mark.skipif(not LINUX, reason="files without a name are Linux's")
def test_a_process_killed_while_hdf5_lays_out_a_shard_leaves_nothing_in_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(writer, "MEMORY", str(tmp_path))
    monkeypatch.setattr(h5py, "File", lambda *given, **how: os.kill(os.getpid(), signal.SIGKILL))
    child = os.fork()
    if child == 0:
        try:
            writer._lay_out(tmp_path / "shard", layout())
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, 5, 3000])
def test_a_shard_has_the_same_bytes_where_files_need_a_name(monkeypatch, tmp_path, count):
    def refused(name):
        raise OSError("no such call here")

    monkeypatch.setattr(writer, "MEMORY", str(tmp_path / "memory"))
    (tmp_path / "memory").mkdir()
    first = written(tmp_path / "a", count)
    monkeypatch.setattr(os, "memfd_create", refused, raising=False)
    assert written(tmp_path / "b", count) == first
    monkeypatch.delattr(os, "memfd_create")
    assert written(tmp_path / "c", count) == first
    assert list((tmp_path / "memory").iterdir()) == []


@pytest.mark.parametrize("named", [False, True])
def test_what_fails_while_it_is_laid_out_leaves_no_open_file(monkeypatch, tmp_path, named):
    def fails(*given, **how):
        raise RuntimeError("HDF5 is of another mind")

    monkeypatch.setattr(writer, "MEMORY", str(tmp_path))
    if named:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(h5py, "File", fails)
    before = num_open()
    with pytest.raises(RuntimeError, match="another mind"):
        writer._lay_out(tmp_path / "shard", layout())
    assert num_open() == before
    assert list(tmp_path.iterdir()) == []
