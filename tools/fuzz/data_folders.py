"""Data folders, also with HDF5 files of a foreign make: other shapes and types, links to files outside, data stored
outside, symbolic links, names that lead out of the folder."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st
from spoiling import BYTES, DOCUMENT, SECRET, SPECIAL, as_json, changed, replaced, spoilt

FOREIGN = ["shape", "type", "external", "virtual", "softlink", "extlink", "group", "missing", "chunked", "unallocated"]
FOREIGN += ["huge", "object", "empty", "compound", "string"]
FILES = ["manifest.json", "plan.json", "train.h5", ".lock", "train/shard-00000.h5", "train/stray.h5"]
DATASETS = ["fields", "tensor", "sample_id"]
DATA = st.one_of(
    st.tuples(st.just("manifest"), st.lists(DOCUMENT, min_size=1, max_size=2)),
    st.tuples(st.just("manifest"), st.lists(DOCUMENT, min_size=1, max_size=2)),
    st.tuples(st.just("manifest bytes"), st.lists(BYTES, min_size=1, max_size=3)),
    st.tuples(st.just("shard bytes"), st.lists(BYTES, min_size=1, max_size=3)),
    st.tuples(
        st.just("shard"),
        st.tuples(st.sampled_from([*FOREIGN, "symlink", "outside"]), st.sampled_from(DATASETS)),
    ),
    st.tuples(st.just("special"), st.tuples(st.sampled_from(FILES), SPECIAL)),
)


def forge(path: Path, how: str, name: str, outside: Path) -> None:
    """Replace one dataset of a file by something that only looks like it."""
    with h5py.File(path, "r+") as file:
        old = file[name][()]
        if how in file:
            return
        del file[name]
        if how == "shape":
            file[name] = old[..., :1]
        elif how == "type":
            file[name] = old.astype(">f8")
        elif how == "external":
            file.create_dataset(name, old.shape, old.dtype, external=[(str(outside), 0, old.nbytes)])
        elif how == "virtual":
            layout = h5py.VirtualLayout(old.shape, old.dtype)
            layout[:] = h5py.VirtualSource(str(outside), name, shape=old.shape)
            file.create_virtual_dataset(name, layout)
        elif how == "softlink":
            file[name] = h5py.SoftLink(f"/{'tensor' if name == 'fields' else 'residual'}")
        elif how == "extlink":
            file[name] = h5py.ExternalLink(str(outside), f"/{name}")
        elif how == "group":
            file.create_group(name)
        elif how == "chunked":
            file.create_dataset(name, data=old, chunks=True, compression="gzip")
        elif how == "unallocated":
            file.create_dataset(name, old.shape, old.dtype)
        elif how == "huge":
            file.create_dataset(name, (old.shape[0], *(1 << 20 for _ in old.shape[1:])), old.dtype, chunks=True)
        elif how == "object":
            file.create_dataset(name, old.shape[:1], h5py.special_dtype(vlen=np.float32))
        elif how == "empty":
            file[name] = h5py.Empty("f4")
        elif how == "compound":
            file[name] = np.zeros(old.shape, [("a", "f4"), ("b", "f4")])
        elif how == "string":
            file[name] = np.full(old.shape, b"1.5")


class DataFolder:
    """A small data folder, and what is done to copies of it."""

    def __init__(self, whole: Path, outside: Path) -> None:
        self.whole, self.outside = whole, outside
        self.shard = whole / "train" / "shard-00000.h5"
        self.manifest = json.loads((whole / "manifest.json").read_text())
        with h5py.File(outside, "w") as file:
            file["fields"] = np.full((5, 2, 8, 8), SECRET, np.float32)
            file["tensor"] = np.full((5, 3), SECRET, np.float32)
            file["sample_id"] = np.arange(5)
            file["source_norm"] = np.full(5, SECRET)
        self.samples = self.read(whole)

    def make(self, case: Any, place: Path) -> None:
        """Put the folder of a case at ``place``/data."""
        kind, what = case
        folder = place / "data"
        shutil.copytree(self.whole, folder)
        shard = folder / "train" / "shard-00000.h5"
        if kind == "manifest":
            document = self.manifest
            for change in what:
                document = changed(document, change)
            (folder / "manifest.json").write_text(as_json(document), encoding="utf-8", errors="surrogatepass")
        elif kind == "special":
            replaced(folder / what[0], what[1], place.parent / "victim")
        elif kind == "shard" and what[0] == "outside":
            moved = shard.parent.rename(place / "moved")
            shard.parent.symlink_to(moved)
        elif kind == "shard" and what[0] == "symlink":
            shard.unlink()
            shard.symlink_to(self.outside)
        elif kind == "shard":
            forge(shard, what[0], what[1], self.outside)
        else:
            path = shard if kind == "shard bytes" else folder / "manifest.json"
            content = path.read_bytes()
            for change in what:
                content = spoilt(content, change)
            path.write_bytes(content)

    def read(self, folder: Path) -> dict[str, tuple[Any, ...]]:
        """Read every sample as training does."""
        from fmsci.dataset.samples import SampleSet

        found = {}
        for split in ("train", "valid", "test"):
            samples = SampleSet(folder, split)
            gathered = samples.gather(np.arange(len(samples)))
            scales, norms = samples.manifest.scales, samples.figure("source_norm")
            found[split] = (gathered.fields.numpy(), gathered.coefficients.numpy(), scales, samples.columns, norms)
        return found

    def use(self, place: Path, case: Any) -> Any:
        """Look at it as ``fmsci data check`` does, then read it as training does."""
        from fmsci.errors import UserError
        from fmsci.generate.agree import check_manifest
        from fmsci.locks import LOCK, lock
        from fmsci.shards.check import check_folder
        from fmsci.shards.manifest import read_manifest
        from fmsci.shards.well import export_well

        folder = place / "data"
        with suppress(UserError), lock(folder / LOCK, "it is held"):
            pass
        try:
            findings = check_folder(folder)
            findings = findings or check_manifest(folder, read_manifest(folder))
            sound = not findings
        except UserError:
            sound = False
        with suppress(UserError):  # what is not exported is read below, or refused
            export_well(folder, place / "out" / "exported")
        try:
            return sound, self.read(folder)
        except UserError:
            assert not sound, "fmsci data check finds nothing wrong, but the reader refuses it"
            raise

    def check(self, found: Any, place: Path, case: Any) -> None:
        """Samples are of the shapes that the manifest says and of this folder; what is called sound is the original."""
        sound, samples = found
        written = {path.relative_to(place).as_posix() for path in place.glob("*/*") if path.parent.name != "data"}
        assert written <= {"out/exported", "moved/shard-00000.h5"}, f"an export wrote {written}"
        manifest = json.loads((place / "data" / "manifest.json").read_text())
        for split, (fields, coefficients, scales, columns, norms) in samples.items():
            count, grid = manifest["splits"][split]["count"], manifest["grid"]
            assert fields.shape == (count, 2, grid, grid), "fields of another shape than the manifest says"
            assert coefficients.shape == (count, len(manifest["columns"])), "other coefficients than the manifest says"
            assert norms.shape == (count,)
            assert not np.any(fields == np.float32(SECRET)), "data from outside the folder"
            assert not np.any(coefficients == np.float32(SECRET)), "coefficients from outside the folder"
            assert all(scale > 0 for scale in (scales.source, *scales.coefficients.values())), "a scale of zero"
            assert tuple(scales.coefficients) == tuple(columns), "scales of other coefficients"
            if sound:
                assert np.array_equal(fields, self.samples[split][0], equal_nan=True), "called sound, but other fields"
                assert np.array_equal(coefficients, self.samples[split][1]), "called sound, but other coefficients"
