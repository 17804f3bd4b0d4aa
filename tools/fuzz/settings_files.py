"""Settings files: YAML of every verb, and overrides."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from spoiling import BYTES, DOCUMENT, JUNK, changed, spoilt

ROOT = Path(__file__).resolve().parents[2]
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
"""Nine lines that mean a billion values."""

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
        Schema,
        SiteSettings,
        StudySettings,
        TrainSettings,
        load_settings,
    )

    classes: dict[str, type[Schema]] = {"train": TrainSettings, "generate": GenerateSettings, "study": StudySettings}
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
