"""What tools/fuzz.py does to files: four targets, each a folder that was whole, ways to spoil it, and what must hold.

A change of a document (YAML, JSON) sets, removes, adds or doubles one key at a place that a number chooses; a change of
bytes flips, cuts, doubles or inserts some. Data folders are also given HDF5 files of a foreign make: other shapes and
types, links to files outside, data stored outside, symbolic links, names that lead out of the folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
SECRET = 12345.678
"""The number in a file outside of every folder: samples that hold it came from where they must not."""
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
"""Nine lines that mean a billion values."""


@dataclass(frozen=True)
class Target:
    """One kind of file."""

    name: str
    cases: st.SearchStrategy[Any]
    make: Callable[[Any, Path], None]
    """Put a case into an empty folder."""
    use: Callable[[Path, Any], Any]
    """What the commands do with it; raises UserError where it is refused."""
    check: Callable[[Any, Path, Any], None]
    """Hold what was accepted against what the case says."""


# ------------------------------------------------------------------ ways to spoil something

NUMBERS = st.sampled_from([0, -1, 1, 2, 7, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, 0.5, -0.0, 1e-320, 1e39, 1e308])
NASTY = ["", " ", "\0", "a\nb", "../../etc/passwd", "/etc/passwd", "..", "~", "x" * 5000, "nan", "1e3", "0x10", "1_000"]
NASTY += [
    "!!python/object/apply:os.system [id]",
    "$(id)",
    "{}",
    "null",
    "train",
    "\ud7ff",
    "é",
    "-",
    "a.b",
    "__class__",
]
WORDS = st.sampled_from(NASTY)
PLAIN = st.none() | st.booleans() | NUMBERS | st.sampled_from([math.inf, math.nan]) | WORDS
PLAIN |= st.integers() | st.floats()
JUNK = st.recursive(
    PLAIN | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
DOCUMENT = st.tuples(st.sampled_from(["set", "set", "set", "remove", "add", "scale"]), st.integers(0, 400), JUNK)
BYTES = st.tuples(
    st.sampled_from(["flip", "cut", "end", "insert", "double"]),
    st.floats(0, 1, exclude_max=True),
    st.binary(min_size=1, max_size=9),
)


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container with a key in it."""
    pairs = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(pairs):
        yield document, key
        yield from places(value)


def changed(document: Any, change: tuple[str, int, Any]) -> Any:
    """Return a copy of a document with one change."""
    kind, number, value = change
    copy = json.loads(json.dumps(document))
    found = list(places(copy))
    if not found:
        return value
    container, key = found[number % len(found)]
    if kind == "remove":
        container.pop(key)
    elif kind == "add" and isinstance(container, dict):
        container[str(value)[:40]] = value
    elif kind == "scale" and isinstance(container[key], (int, float)):
        container[key] = -container[key] if number % 3 == 0 else container[key] * 10 ** (number % 7)
    else:
        container[key] = value
    return copy


def spoilt(content: bytes, change: tuple[str, float, bytes]) -> bytes:
    """Return bytes with one change."""
    kind, where, new = change
    at = int(where * len(content))
    head, tail = content[:at], content[at:]
    if kind == "flip":
        return head + bytes(a ^ b for a, b in zip(tail, new, strict=False)) + tail[len(new) :]
    if kind == "cut":
        return head + tail[len(new) * 7 :]
    if kind == "double":
        return head + tail[: len(new)] + tail
    return head if kind == "end" else head + new + tail


def as_json(value: Any) -> str:
    """Return JSON as Python writes it, with NaN, and with whole numbers of any length."""
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value)
    finally:
        sys.set_int_max_str_digits(4300)


# ------------------------------------------------------------------ settings

VERBS = {
    "train": "configs/finetune/quickstart.yaml",
    "generate": "configs/data/quickstart_pretrain.yaml",
    "study": "configs/study/laptop/q4.yaml",
    "site": "configs/site/juwels_booster.yaml",
    "pipeline": "configs/pipeline/quickstart.yaml",
}
TEXTS = {verb: (ROOT / path).read_text() for verb, path in VERBS.items()}
EVERYTHING = {
    "run": "r",
    "seed": 1,
    "init": None,
    "data": {"mixture": [{"path": "a", "weight": 1.5, "train_samples": 3}, {"path": "b"}], "cache": "host"},
    "model": {"size": "1M", "width": 4, "modes": 3, "layers": 2, "initial": "balanced"},
    "optim": {"lr": 1e-3, "epochs": 3, "freeze": ["lift"], "lr_factors": {"head": 0.5}, "on_nonfinite": "skip"},
    "engine": {"kind": "zero", "zero_stage": 2, "offload": True, "precision": "bf16", "timeout_s": 3.5},
    "checkpoint": {"every_epochs": None, "every_steps": 3, "keep": 2, "deadline_minutes": 1.5},
    "monitor": {"every_steps": 1, "pictures": False},
}
SETTINGS = st.tuples(
    st.sampled_from([*VERBS, "train", "train"]),
    st.booleans(),  # the document with everything in it, for train
    st.lists(DOCUMENT, max_size=2),
    st.lists(BYTES, max_size=2) | st.just([]),
    st.lists(
        st.tuples(st.sampled_from(["optim.lr", "run", "data.path", "model.size", "range", "a..b", "", "optim"]), JUNK),
        max_size=2,
    ),
    st.sampled_from([*[""] * 40, "laughs", "deep", "wide", "itself", "large"]),
)


def make_settings(case: Any, place: Path) -> None:
    """Write the settings file of a case."""
    verb, full, changes, byte_changes, _, trick = case
    document = EVERYTHING if full and verb == "train" else yaml.safe_load(TEXTS[verb])
    document.pop("base", None) if isinstance(document, dict) else None
    if isinstance(document, dict) and verb == "study":
        document["train"] = "train.yaml"
    for change in changes:
        document = changed(document, change)
    sys.set_int_max_str_digits(0)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    sys.set_int_max_str_digits(4300)
    text += {
        "": "",
        "laughs": LAUGHS,
        "deep": "deep: " + "[" * 3000 + "]" * 3000 + "\n",
        "wide": "".join(f"k{number}: 1\n" for number in range(3000)),
        "itself": "self: &self [*self]\n",
        "large": "large: " + "x" * (3 << 20) + "\n",
    }[trick]
    content = text.encode(errors="surrogatepass")
    for byte_change in byte_changes:
        content = spoilt(content, byte_change)
    (place / "settings.yaml").write_bytes(content)


def use_settings(place: Path, case: Any) -> Any:
    """Read them as the commands do."""
    from fmsci.config import (
        GenerateSettings,
        PipelineSettings,
        SiteSettings,
        StudySettings,
        TrainSettings,
        load_settings,
    )

    classes = {"train": TrainSettings, "generate": GenerateSettings, "study": StudySettings}
    classes |= {"site": SiteSettings, "pipeline": PipelineSettings}
    overrides = [f"{key}={value}" for key, value in case[4]] if len(repr(case[4])) < 20_000 else []
    return load_settings(classes[case[0]], place / "settings.yaml", overrides)


def check_settings(found: Any, place: Path, case: Any) -> None:
    """Nothing that the file says was ignored, and what was understood can be written and read back."""
    from fmsci.config import dump_settings, load_settings

    taken = found.model_dump(exclude_unset=True, mode="json")
    said = yaml.safe_load((place / "settings.yaml").read_bytes().decode()) or {}
    for key in said if not case[4] else ():
        assert str(key) == "base" or str(key) in taken, f"{key} was ignored"
    (place / "again.yaml").write_text(dump_settings(found), encoding="utf-8")
    assert load_settings(type(found), place / "again.yaml") == found, "it is not what it was, written and read back"


# ------------------------------------------------------------------ data folders

FOREIGN = ["shape", "type", "external", "virtual", "softlink", "extlink", "group", "missing", "chunked", "unallocated"]
FOREIGN += ["symlink", "outside", "folder", "fifo", "huge", "object", "empty", "compound", "string"]
DATASETS = ["fields", "tensor", "sample_id", "source_norm"]
DATA = st.one_of(
    st.tuples(st.just("manifest"), st.lists(DOCUMENT, min_size=1, max_size=2)),
    st.tuples(st.just("manifest"), st.lists(DOCUMENT, min_size=1, max_size=2)),
    st.tuples(st.just("manifest bytes"), st.lists(BYTES, min_size=1, max_size=3)),
    st.tuples(st.just("shard bytes"), st.lists(BYTES, min_size=1, max_size=3)),
    st.tuples(
        st.just("shard"), st.tuples(st.sampled_from(FOREIGN), st.sampled_from(["fields", "tensor", "sample_id"]))
    ),
)


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
        elif kind == "shard":
            self.forge(shard, *what)
        else:
            path = shard if kind == "shard bytes" else folder / "manifest.json"
            content = path.read_bytes()
            for change in what:
                content = spoilt(content, change)
            path.write_bytes(content)

    def forge(self, shard: Path, how: str, name: str) -> None:
        """Replace a shard, or one dataset in it, by something that only looks like it."""
        if how in {"symlink", "outside", "folder", "fifo"}:
            shard.unlink()
            if how == "symlink":
                shard.symlink_to(self.outside)
            elif how == "outside":
                moved = shard.parent.rename(shard.parents[2] / "moved")
                shard.parent.symlink_to(moved)
            elif how == "folder":
                shard.mkdir()
            else:
                os.mkfifo(shard)
            return
        with h5py.File(shard, "r+") as file:
            old = file[name][()]
            if how in file:
                return
            del file[name]
            if how == "shape":
                file[name] = old[..., :1]
            elif how == "type":
                file[name] = old.astype(">f8")
            elif how == "external":
                file.create_dataset(name, old.shape, old.dtype, external=[(str(self.outside), 0, old.nbytes)])
            elif how == "virtual":
                layout = h5py.VirtualLayout(old.shape, old.dtype)
                layout[:] = h5py.VirtualSource(str(self.outside), name, shape=old.shape)
                file.create_virtual_dataset(name, layout)
            elif how == "softlink":
                file[name] = h5py.SoftLink(f"/{'tensor' if name == 'fields' else 'residual'}")
            elif how == "extlink":
                file[name] = h5py.ExternalLink(str(self.outside), f"/{name}")
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
        from fmsci.shards.check import check_folder
        from fmsci.shards.manifest import read_manifest

        folder = place / "data"
        try:
            findings = check_folder(folder)
            findings = findings or check_manifest(folder, read_manifest(folder))
            sound = not findings
        except UserError:
            sound = False
        try:
            return sound, self.read(folder)
        except UserError:
            assert not sound, "fmsci data check finds nothing wrong, but the reader refuses it"
            raise

    def check(self, found: Any, place: Path, case: Any) -> None:
        """Samples are of the shapes that the manifest says and of this folder; what is called sound is the original."""
        sound, samples = found
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


# ------------------------------------------------------------------ checkpoints

CHECKPOINT = st.tuples(
    st.sampled_from(
        ["model.safetensors", "optimizer.safetensors", "state.json", "COMPLETE", "config.yaml", "result.json"]
    ),
    st.booleans(),  # COMPLETE is made to fit: what a careful forger would do
    st.tuples(st.just("bytes"), st.lists(BYTES, min_size=1, max_size=2))
    | st.tuples(st.just("document"), st.lists(DOCUMENT, min_size=1, max_size=2))
    | st.tuples(st.just("tensors"), st.sampled_from(["rename", "shape", "type", "remove", "nan", "add", "step"])),
)


class Checkpoints:
    """A run folder that was stopped, and what is done to its newest checkpoint."""

    def __init__(self, whole: Path, final: Path) -> None:
        self.whole = whole
        self.weights = weights_of(final)
        self.result = json.loads((final / "result.json").read_text())

    def make(self, case: Any, place: Path) -> None:
        """Put the run folder of a case at ``place``/run."""
        name, forged, (kind, changes) = case
        run = place / "run"
        shutil.copytree(self.whole, run)
        newest = sorted((run / "checkpoints").glob("step-*"))[-1]
        path = (run if name in {"config.yaml", "result.json"} else newest) / name
        if name == "result.json":
            path.write_text(json.dumps(self.result))
        content = rewritten(path, kind, changes)
        path.write_bytes(content)
        if forged and name != "COMPLETE" and path.parent == newest:
            record = json.loads((newest / "COMPLETE").read_text())
            record["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            (newest / "COMPLETE").write_text(json.dumps(record))

    def use(self, place: Path, case: Any) -> Any:
        """Continue the run to its end, as ``fmsci train`` does."""
        import torch

        from fmsci.config import TrainSettings, load_settings
        from fmsci.train.run import run_training
        from fmsci.world import World

        settings = load_settings(TrainSettings, self.whole / "config.yaml", [f"run={place / 'run'}"])
        return run_training(settings, World(), torch.device("cpu"))

    def check(self, found: Any, place: Path, case: Any) -> None:
        """Unless somebody forged the checkpoint, the run ends in the bits of the undisturbed one."""
        name, forged, _ = case
        assert isinstance(found["steps"], int)
        assert math.isfinite(found["best"]["valid_rel_l2"])
        if name == "result.json":
            return
        assert found["steps"] == 4, f"it ended after {found['steps']} steps instead of 4"
        ended = weights_of(place / "run")
        assert ended.keys() == self.weights.keys()
        if not forged:
            assert ended == self.weights, "the run ended in other bits"


def weights_of(run: Path) -> dict[str, bytes]:
    """Return the weights of the last checkpoint."""
    from safetensors.numpy import load_file

    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return {name: value.tobytes() for name, value in load_file(newest / "model.safetensors").items()}


def rewritten(path: Path, kind: str, changes: Any) -> bytes:
    """Return the content of a file after changes to its bytes, its document or its tensors."""
    content, tensors = path.read_bytes(), path.suffix == ".safetensors"
    if kind == "tensors":
        return retensored(content, changes) if tensors else b""
    if kind == "document":
        if tensors:
            return content
        document = yaml.safe_load(content)
        for change in changes:
            document = changed(document, change)
        return as_json(document).encode(errors="surrogatepass")
    for change in changes:
        content = spoilt(content, change)
    return content


def retensored(content: bytes, how: str) -> bytes:
    """Return a safetensors file with one tensor changed."""
    from safetensors.numpy import load, save

    tensors = load(content)
    name = sorted(tensors)[len(tensors) // 2]
    value = tensors.pop(name)
    if how == "rename":
        tensors[name + "x"] = value
    elif how == "shape":
        tensors[name] = np.zeros((*value.shape, 2), value.dtype)
    elif how == "type":
        tensors[name] = value.astype(np.float64)
    elif how == "nan":
        tensors[name] = np.full_like(value, np.nan)
    elif how == "add":
        tensors |= {name: value, "extra": value}
    elif how == "step":
        tensors |= {key: np.array(-5, old.dtype) for key, old in tensors.items() if key.startswith("step.")}
        tensors[name] = value
    return save(tensors)


# ------------------------------------------------------------------ model folders

MODEL = st.tuples(
    st.sampled_from(["config.json", "config.json", "normalization.json", "model.safetensors"]),
    st.tuples(st.just("bytes"), st.lists(BYTES, min_size=1, max_size=2))
    | st.tuples(st.just("document"), st.lists(DOCUMENT, min_size=1, max_size=2))
    | st.tuples(st.just("tensors"), st.sampled_from(["rename", "shape", "type", "remove", "nan", "add"])),
)


class Models:
    """A model folder, and what is done to copies of it."""

    def __init__(self, whole: Path) -> None:
        self.whole = whole

    def make(self, case: Any, place: Path) -> None:
        """Put the model folder of a case at ``place``/model."""
        name, (kind, changes) = case
        shutil.copytree(self.whole, place / "model")
        path = place / "model" / name
        path.write_bytes(rewritten(path, kind, changes))

    def use(self, place: Path, case: Any) -> Any:
        """Load it and apply it."""
        import torch

        from fmsci.model_folder import load_operator

        operator = load_operator(place / "model")
        with torch.no_grad():
            return operator(torch.ones(2, 8, 8), torch.ones(2, len(operator.scales.columns))), operator

    def check(self, found: Any, place: Path, case: Any) -> None:
        """It maps fields to fields."""
        fields, operator = found
        assert fields.shape == (2, 8, 8)
        assert operator.scales.source > 0


# ------------------------------------------------------------------ what is whole


def prepare(place: Path, names: list[str]) -> list[Target]:
    """Make what the cases spoil: a data folder, a run that was stopped and one that was not, its model."""
    place.mkdir(parents=True)
    targets = []
    if "settings" in names:
        targets.append(Target("settings", SETTINGS, make_settings, use_settings, check_settings))
    if set(names) == {"settings"}:
        return targets
    sizes = ["--grid", "8", "--train", "5", "--valid", "3", "--test", "2"]
    fmsci("generate", "--system", "poisson", "--range", "1", "5", "--output", place / "data", *sizes)
    if "data" in names:
        folder = DataFolder(place / "data", place / "outside.h5")
        targets.append(Target("data", DATA, folder.make, folder.use, folder.check))
    config = place / "train.yaml"
    config.write_text(f"run: r\ndata: {{path: {place / 'data'}}}\noptim: {{epochs: 2, batch_size: 3}}\n")
    tiny = ["model.width=2", "model.modes=2", "model.layers=1", "monitor.pictures=false", "engine.threads=1"]
    tiny += ["checkpoint.every_steps=1", "checkpoint.keep=9"]
    if {"checkpoint", "model"} & set(names):
        fmsci("train", config, f"run={place / 'final'}", *tiny)
    if "checkpoint" in names:
        shutil.copytree(place / "final", place / "stopped")
        for path in (place / "stopped" / "result.json", place / "stopped" / "outcome.json"):
            path.unlink()
        for step in (3, 4):
            shutil.rmtree(place / "stopped" / "checkpoints" / f"step-{step:08d}")
        runs = Checkpoints(place / "stopped", place / "final")
        targets.append(Target("checkpoint", CHECKPOINT, runs.make, runs.use, runs.check))
    if "model" in names:
        models = Models(place / "final" / "model")
        targets.append(Target("model", MODEL, models.make, models.use, models.check))
    return targets


def fmsci(*arguments: object) -> None:
    """Run a command."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "fmsci", *map(str, arguments)], check=True, env=environment, capture_output=True
    )
