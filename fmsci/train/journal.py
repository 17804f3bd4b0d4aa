"""Where the entries of a run go: metrics.jsonl, TensorBoard and, where asked for, W&B. Rank 0 has one."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.writer import SummaryWriter

from fmsci.config import TrainSettings, dump_settings
from fmsci.errors import UserError
from fmsci.files import open_to_append, regular_file
from fmsci.train.entries import METRICS, end_of_step
from fmsci.train.mirror import Mirror

ONLY_IN_LINES = {"perf/elapsed_s", "perf/data_wait", "perf/ranks"}
"""What metrics.jsonl alone has: it makes no curve, or the curve of another name."""

FLUSH_S = 30
"""TensorBoard's files are this old at most."""


class Journal:
    """Writes what a start of a run has to tell. The x axis is the optimizer step.

    An entry of a step that is there already, from a start that was killed after it, is dropped when this one opens.
    Every method raises UserError where the place cannot be written.
    """

    def __init__(self, settings: TrainSettings, step: int, systems: list[str]) -> None:
        """Open everything, to go on after ``step``."""
        self.run = settings.run
        threading.excepthook = _hush_tensorboard
        self._mirror = None if settings.monitor.wandb is None else Mirror(settings)
        with self._writing():
            self._forget_after(step)
            self._lines = open_to_append(self.run / METRICS)
            folder = self.run / "tensorboard"
            again = step + 1 if step else 0  # the first point that this start writes
            self._board = SummaryWriter(str(folder), purge_step=again if folder.exists() else None, flush_secs=FLUSH_S)
            if step == 0:
                self._board.add_text("settings", f"```yaml\n{dump_settings(settings)}```", 0)
                self._board.add_custom_scalars(layout(systems))

    def close(self) -> None:
        """Write out what is left."""
        try:
            with self._writing():
                try:
                    self._board.close()
                finally:
                    self._lines.close()
        finally:
            if self._mirror is not None:
                self._mirror.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write the metrics of {self.run}: {error.strerror or error}; free or change the place and "
                "start again: it continues from the last checkpoint"
            ) from error

    def entry(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the entry of a step: one line, and one event with all curves (a twentieth of ``add_scalar`` each)."""
        curves = {name: value for name, value in values.items() if name not in ONLY_IN_LINES}
        with self._writing():
            self._lines.write(json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
            self._lines.flush()
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in curves.items()])
            self._board.file_writer.add_summary(summary, step)  # type: ignore[attr-defined]
        if self._mirror is not None:
            self._mirror.entry(step, {"epoch": epoch, **curves})

    def picture(self, tag: str, step: int, pixels: NDArray[np.uint8]) -> None:
        """Show a picture (height, width, 3)."""
        with self._writing():
            self._board.add_image(tag, pixels, step, dataformats="HWC")
        if self._mirror is not None:
            self._mirror.picture(tag, step, pixels)

    def _forget_after(self, step: int) -> None:
        """Cut off the lines that a killed start wrote after the checkpoint that this one continues from, and what a
        power loss left at the end. What is before, in a run of weeks gigabytes, is neither read nor written again."""
        path: Path = self.run / METRICS
        if path.is_symlink() or not path.exists():  # a link is refused where the file is opened
            return
        with regular_file(path).open("r+b") as stream:
            stream.truncate(end_of_step(stream, step) if step else 0)
            os.fsync(stream.fileno())


def layout(systems: list[str]) -> dict[str, Any]:
    """Return TensorBoard's page of custom scalars: what one looks at first, several curves in one chart."""

    def lines(*tags: str) -> list[Any]:
        return ["Multiline", [f"^{tag}$" for tag in tags]]

    return {
        "is it learning": {
            "relative L2 error": lines("train/rel_l2", *(f"valid/{system}/rel_l2" for system in systems)),
            "loss": lines("train/loss", *(f"valid/{system}/loss" for system in systems)),
            "norm of the gradient": lines("train/grad_norm"),
            "learning rate": lines("train/lr"),
        },
        "is it fast": {
            "samples per second": lines("perf/samples_per_s"),
            "waiting for data and for other ranks, %": lines("perf/data_wait_pct", "perf/comm_pct"),
            "step, and own time of the slowest and fastest rank, ms": lines(
                "perf/step_ms", "perf/slowest_rank_ms", "perf/fastest_rank_ms"
            ),
            "operations over those of matrix products": lines("perf/flops_utilisation"),
            "peak memory, GiB": lines("memory/peak_gib"),
        },
        "where is the error": {
            f"{system}: waves that the layers keep, waves beyond": lines(
                f"spectrum/{system}/kept", f"spectrum/{system}/beyond"
            )
            for system in systems
        },
    }


def _hush_tensorboard(args: threading.ExceptHookArgs) -> None:
    """Print no traceback for a full disk in TensorBoard's thread: its next call raises the error, and it is told."""
    if (
        args.exc_type is None
        or not issubclass(args.exc_type, OSError)
        or "tensorboard" not in type(args.thread).__module__
    ):
        threading.__excepthook__(args)
