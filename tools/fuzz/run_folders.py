"""Run folders: checkpoints to continue from, and what ``fmsci status`` and ``fmsci watch`` read."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from spoiling import BYTES, DOCUMENT, SPECIAL, replaced, rewritten

OF_THE_RUN = ["config.yaml", "result.json", ".lock", "metrics.jsonl", "data.json"]
CHECKPOINT = st.tuples(
    st.sampled_from(["model.safetensors", "optimizer.safetensors", "state.json", "COMPLETE", *OF_THE_RUN]),
    st.booleans(),  # COMPLETE is made to fit: what a careful forger would do
    st.tuples(st.just("bytes"), st.lists(BYTES, min_size=1, max_size=2))
    | st.tuples(st.just("document"), st.lists(DOCUMENT, min_size=1, max_size=2))
    | st.tuples(st.just("tensors"), st.sampled_from(["rename", "shape", "type", "remove", "nan", "add", "step"]))
    | st.tuples(st.just("special"), SPECIAL),
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
        path = (run if name in OF_THE_RUN else newest) / name
        if name == "result.json":
            path.write_text(json.dumps(self.result))
        if kind == "special":
            replaced(path, changes, place.parent / "victim")
            return
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
        try:
            return run_training(settings, World(), torch.device("cpu"))
        finally:
            torch.set_flush_denormal(False)  # hypothesis draws the smallest numbers, too

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


STATUS = st.tuples(
    st.sampled_from([*OF_THE_RUN, "metrics.jsonl", "outcome.json", "slurm_job"]),
    st.tuples(st.just("bytes"), st.lists(BYTES, min_size=1, max_size=2))
    | st.tuples(st.just("document"), st.lists(DOCUMENT, min_size=1, max_size=2))
    | st.tuples(st.just("special"), SPECIAL),
)


class Told:
    """A run folder that people ask about, and what is done to its files."""

    def __init__(self, whole: Path) -> None:
        self.whole = whole

    def make(self, case: Any, place: Path) -> None:
        """Put the run folder of a case at ``place``/run."""
        name, (kind, changes) = case
        run = place / "run"
        shutil.copytree(self.whole, run, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", "model"))
        if kind == "special":
            replaced(run / name, changes, place.parent / "victim")
        else:
            (run / name).write_bytes(rewritten(run / name, kind, changes))

    def use(self, place: Path, case: Any) -> Any:
        """Ask as ``fmsci status`` and ``fmsci watch`` do; a row that says unreadable is a refusal."""
        from fmsci.cluster.status import describe, run_status
        from fmsci.cluster.watch import Watched
        from fmsci.errors import UserError

        status = run_status(place / "run", {})
        row = describe(status)
        if status.state == "unreadable":
            raise UserError(status.why or "")
        watched = Watched(place / "run")
        return status, row, watched.view(100), watched.over

    def check(self, found: Any, place: Path, case: Any) -> None:
        """It is a row of the table, and what was written of the run whole is told."""
        status, row, view, _ = found
        assert len(row) == 9
        assert all(isinstance(cell, str) for cell in (*row, *(text for line in view for text in line)))
        assert status.step >= 0 or case[0] == "metrics.jsonl"
