"""What a run tells: metrics.jsonl, TensorBoard, progress. Rank 0 writes; sums over ranks only when an entry is due."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from fmsci.config import dump_settings
from fmsci.dataset.order import global_batch
from fmsci.engine.collective import decided_by_main, total
from fmsci.engine.measure import Measured
from fmsci.errors import SettingsError, UserError
from fmsci.figures import field_comparison
from fmsci.files import write_text
from fmsci.terminal import Progress, warn
from fmsci.train.build import Job
from fmsci.train.state import State
from fmsci.train.trouble import Trouble


class Monitor:
    """Writes the entries of one run. The x axis is the optimizer step; a resumed run has no doubled points."""

    def __init__(self, job: Job, state: State, trouble: Trouble) -> None:
        self.job, self._state, self._trouble = job, state, trouble
        self.main = job.world.is_main
        self._started = time.monotonic() - state.elapsed_s
        self._results: list[Tensor] = []
        self._restart_clock(state)
        self._note = "" if state.best_rel_l2 is None else f"valid {state.best_rel_l2:.4f}"
        title = f"train {job.run.name}"
        self.progress = Progress(title, job.num_steps, "steps", enabled=self.main, done=state.step)
        self.tensorboard: SummaryWriter | None = None

    def __enter__(self) -> Monitor:
        """Open what is written to. Collective. Raises UserError where it cannot be."""
        decided_by_main(self.job.world, self.job.device, self._open)
        self.progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.progress.__exit__(*error)
        if self.tensorboard is not None:
            with self._trouble.kept(), self._writing():
                try:
                    self.tensorboard.close()
                finally:
                    self._lines.close()

    def _open(self) -> float:
        run, step = self.job.run, self._state.step
        threading.excepthook = _hush_tensorboard
        with self._writing():
            self._forget_after(step)
            self._lines = (run / "metrics.jsonl").open("a", encoding="utf-8")
            folder = run / "tensorboard"
            again = step + 1 if step else 0  # the first point that this start writes
            self.tensorboard = SummaryWriter(str(folder), purge_step=again if folder.exists() else None)
            if step == 0:
                self.tensorboard.add_text("settings", f"```yaml\n{dump_settings(self.job.settings)}```", 0)
        return 0.0

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write the metrics of {self.job.run}: {error.strerror or error}; free or change the place and "
                "start again: it continues from the last checkpoint"
            ) from error

    def elapsed_s(self) -> float:
        """Seconds of training, earlier starts counted in."""
        return time.monotonic() - self._started

    def due(self, state: State) -> bool:
        """Tell whether this step has an entry; the same answer on every rank."""
        return state.step % self.job.settings.monitor.every_steps == 0 or state.step == self.job.num_steps

    def collect(self, result: Tensor) -> None:
        """Keep what a step gave (this rank's part of loss and error) on the device until an entry is due."""
        self._results.append(result)

    def write(self, state: State, lr: float) -> None:
        """Write the entry of a training step, where one is due. Collective.

        Raises NotFinite where the loss of a step since the last look is not finite, unless such steps are skipped.
        """
        if not self._results:
            return  # every step since the last look was left out
        results = torch.stack(self._results)
        self._results = []
        sums = total(results.flatten().tolist(), self.job.device)
        for number, loss in enumerate(sums[::2]):
            if not math.isfinite(loss):
                self._not_finite(state.step - len(results) + 1 + number, loss)
        loss, rel_l2 = sums[-2:]
        if not self.due(state) or not math.isfinite(loss):
            return
        passed = max(time.monotonic() - self._since, 1e-9)
        rate = (state.samples_seen - self._since_samples) / passed
        waited = (self.job.loader.wait_s - self._since_wait_s) / passed
        self._restart_clock(state)
        self._entry(
            state,
            {
                "train/loss": loss,
                "train/rel_l2": rel_l2,
                "train/lr": lr,
                "perf/samples_per_s": rate,
                "perf/data_wait": waited,
                "perf/elapsed_s": self.elapsed_s(),
            },
        )
        if self.main:
            self.progress.update(state.step, f"error {rel_l2:.4f}" + (f", {self._note}" if self._note else ""))

    def _not_finite(self, step: int, loss: float) -> None:
        if self.job.settings.optim.on_nonfinite != "skip":
            check_finite(self.job, step, "loss", loss)
        if self.main:
            warn(f"no update in step {step}: its gradient is not finite ({_samples(self.job, step)})")

    def validated(self, state: State, measured: dict[str, Measured], improved: bool) -> None:
        """Write the entry of a validation by system, with pictures where the mean error improved. Collective."""
        self._note = f"valid {state.last_rel_l2:.4f}"
        values = {"valid/rel_l2": state.last_rel_l2 or 0.0} if len(measured) > 1 else {}
        for system, one in measured.items():
            values |= {f"valid/{system}/rel_l2": one.rel_l2, f"valid/{system}/loss": one.loss}
        self._entry(state, values)
        if improved and self.job.settings.monitor.pictures:
            for system in measured:
                self._picture(state, system)
        self._restart_clock(state)  # validation is not training speed: the next rate starts here

    def _restart_clock(self, state: State) -> None:
        """Begin a stretch of steps, whose rate and share of waiting for data the next entry tells."""
        self._since, self._since_samples = time.monotonic(), state.samples_seen
        self._since_wait_s = self.job.loader.wait_s

    def _picture(self, state: State, system: str) -> None:
        """Show the first two validation samples of a system. Collective."""
        split = self.job.valid[system]
        samples = split.gather(torch.arange(min(2, len(split))).numpy()).to(self.job.device)
        predicted = self.job.engine.predict(samples.source, samples.coefficients)
        if self.tensorboard is not None:
            fields = [part.cpu().numpy() for part in (samples.source, samples.solution, predicted)]
            with self._trouble.kept(), self._writing():
                picture = field_comparison(*fields)
                self.tensorboard.add_image(f"fields/{system}", picture, state.step, dataformats="HWC")

    def _entry(self, state: State, values: dict[str, float]) -> None:
        if self.tensorboard is None:
            return
        with self._trouble.kept(), self._writing():
            self._lines.write(json.dumps({"step": state.step, "epoch": state.epoch, **values}) + "\n")
            self._lines.flush()
            for name, value in values.items():
                if name != "perf/elapsed_s":
                    self.tensorboard.add_scalar(name, value, state.step)

    def _forget_after(self, step: int) -> None:
        """Drop the entries that a killed start wrote after the checkpoint that this one continues from."""
        path: Path = self.job.run / "metrics.jsonl"
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step] if step else []
        if len(kept) < len(lines):
            write_text(path, "".join(kept))


def _hush_tensorboard(args: threading.ExceptHookArgs) -> None:
    """Print no traceback for a full disk in TensorBoard's thread: its next call raises the error, and it is told."""
    if (
        args.exc_type is None
        or not issubclass(args.exc_type, OSError)
        or "tensorboard" not in type(args.thread).__module__
    ):
        threading.__excepthook__(args)


class NotFinite(SettingsError):  # noqa: N818 - says what it is
    """Training has diverged at ``step``."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def check_finite(job: Job, step: int, name: str, value: float) -> None:
    """Raise NotFinite where training has diverged: the same on every rank, as the value is."""
    if not math.isfinite(value):
        raise NotFinite(f"the {name} of {job.run} is {value} at step {step} ({_samples(job, step)})", step)


def _samples(job: Job, step: int) -> str:
    """Name the training samples of the batch of a step, the first few of many."""
    if step == 0:
        return "before the first"
    loader = job.loader
    epoch, index = divmod(step - 1, loader.num_batches)
    numbers = global_batch(loader.samples.order(loader.seed, epoch), index, loader.batch_size).tolist()
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"training samples {', '.join(map(str, numbers[:8]))}{more}"
