"""Model folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from spoiling import BYTES, DOCUMENT, SPECIAL, replaced, rewritten

MODEL = st.tuples(
    st.sampled_from(["config.json", "config.json", "normalization.json", "model.safetensors"]),
    st.tuples(st.just("bytes"), st.lists(BYTES, min_size=1, max_size=2))
    | st.tuples(st.just("document"), st.lists(DOCUMENT, min_size=1, max_size=2))
    | st.tuples(st.just("tensors"), st.sampled_from(["rename", "shape", "type", "remove", "nan", "add"]))
    | st.tuples(st.just("special"), SPECIAL),
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
        if kind == "special":
            replaced(path, changes, place.parent / "victim")
        else:
            path.write_bytes(rewritten(path, kind, changes))

    def use(self, place: Path, case: Any) -> Any:
        """Load it and apply it."""
        import torch

        from fmsci.model_folder.weights import load_operator

        operator = load_operator(place / "model")
        with torch.no_grad():
            return operator(torch.ones(2, 8, 8), torch.ones(2, len(operator.scales.columns))), operator

    def check(self, found: Any, place: Path, case: Any) -> None:
        """It maps fields to fields."""
        fields, operator = found
        assert fields.shape == (2, 8, 8)
        assert operator.scales.source > 0
