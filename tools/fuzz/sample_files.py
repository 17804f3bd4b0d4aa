"""HDF5 files of samples that other programs made: for ``fmsci predict`` and ``fmsci data import``."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from data_folders import FOREIGN, forge
from hypothesis import strategies as st
from spoiling import BYTES, JUNK, SECRET, SPECIAL, replaced, spoilt

SAMPLES = st.one_of(
    st.tuples(st.just("bytes"), st.lists(BYTES, min_size=1, max_size=3)),
    st.tuples(st.just("forged"), st.tuples(st.sampled_from(FOREIGN), st.sampled_from(["fields", "tensor"]))),
    st.tuples(st.just("attribute"), st.tuples(st.sampled_from(["columns", "system"]), JUNK)),
    st.tuples(st.just("value"), st.tuples(st.sampled_from(["fields", "tensor"]), st.floats(), st.integers(0, 400))),
    st.tuples(st.just("special"), SPECIAL),
)


class SampleFiles:
    """A file in the paper's layout, and what is done to copies of it."""

    def __init__(self, whole: Path, outside: Path) -> None:
        from fmsci.pde import solve

        self.whole, self.outside = whole, outside
        tensor = np.tile([0.02, 0.03, 0.004], (5, 1))
        source = np.random.default_rng(0).normal(size=(5, 8, 8))
        source -= source.mean(axis=(1, 2), keepdims=True)
        with h5py.File(whole, "w") as file:
            file["fields"], file["tensor"] = np.stack([source, solve("poisson", source, tensor)], 1), tensor

    def make(self, case: Any, place: Path) -> None:
        """Put the file of a case at ``place``/train.h5."""
        kind, what = case
        path = place / "train.h5"
        shutil.copy(self.whole, path)
        if kind == "special":
            replaced(path, what, place.parent / "victim")
        elif kind == "forged":
            forge(path, what[0], what[1], self.outside)
        elif kind == "bytes":
            content = path.read_bytes()
            for change in what:
                content = spoilt(content, change)
            path.write_bytes(content)
        else:
            with h5py.File(path, "r+") as file:
                if kind == "attribute":
                    with suppress(TypeError, ValueError, OverflowError, OSError):  # HDF5 has no such attribute
                        file.attrs[what[0]] = what[1]
                else:
                    name, value, at = what
                    flat = file[name][()].reshape(-1)
                    flat[at % flat.size] = value
                    file[name][...] = flat.reshape(file[name].shape)

    def use(self, place: Path, case: Any) -> Any:
        """Read it as ``fmsci predict`` does, and take it in as ``fmsci data import`` does."""
        from fmsci.errors import UserError
        from fmsci.generate.adopt import import_files
        from fmsci.pde import SYSTEMS
        from fmsci.shards.foreign import open_samples

        path = place / "train.h5"
        refusal, read = None, None
        try:
            samples = open_samples(path)
            read = samples.read(0, samples.count)
        except UserError as error:
            refusal = error
        try:
            manifest = import_files({"train": [path]}, SYSTEMS["poisson"], place / "data")
        except UserError:
            assert not list((place / "data").glob("*/*.h5")), "it was refused, and left shards"
            raise
        assert refusal is None, "fmsci data import takes what fmsci predict refuses"
        return manifest, read

    def check(self, found: Any, place: Path, case: Any) -> None:
        """What was taken in is whole, finite, and the file's own."""
        from fmsci.shards.check import check_folder

        manifest, (fields, tensor) = found
        assert check_folder(place / "data") == []
        assert manifest.splits["train"].count == len(fields) == len(tensor)
        assert np.isfinite(fields).all()
        assert not np.any(fields == np.float32(SECRET)), "data from outside the file"
        assert not np.any(tensor == np.float32(SECRET)), "coefficients from outside the file"
