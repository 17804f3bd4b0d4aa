"""What a run tells: which steps have an entry, and what it says. Rank 0 writes; the ranks talk only when one is due."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fmsci.dataset.order import global_batch
from fmsci.engine.collective import decided_by_main, total
from fmsci.engine.measure import Measured
from fmsci.errors import SettingsError
from fmsci.terminal import Progress, warn
from fmsci.train.build import Job
from fmsci.train.journal import Journal
from fmsci.train.pace import Pace
from fmsci.train.pictures import Pictures, by_band
from fmsci.train.profile import Profile
from fmsci.train.state import State
from fmsci.train.trouble import Trouble


class Monitor:
    """Writes the entries of one run. The x axis is the optimizer step; a resumed run has no doubled points."""

    def __init__(self, job: Job, state: State, trouble: Trouble) -> None:
        self.job, self._state, self._trouble = job, state, trouble
        self.main = job.world.is_main
        self._started = time.monotonic() - state.elapsed_s
        self._results: list[Tensor] = []
        self._pace = Pace(job, state)
        self._pictures = Pictures(job)
        self._profile = Profile(job, trouble)
        job.engine.watch.wanted = lambda: self._has_entry(state.step + 1)
        self._note = "" if state.best_rel_l2 is None else f"valid {state.best_rel_l2:.4f}"
        title = f"train {job.run.name}"
        self.progress = Progress(title, job.num_steps, "steps", enabled=self.main, done=state.step)
        self.journal: Journal | None = None

    def __enter__(self) -> Monitor:
        """Open what is written to. Collective. Raises UserError where it cannot be."""
        decided_by_main(self.job.world, self.job.device, self._open)
        self._pace.restart(self._state)
        self.progress.__enter__()
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profile.__exit__(*error)
        self.progress.__exit__(*error)
        if self.journal is not None:
            with self._trouble.kept():
                self.journal.close()

    def _open(self) -> float:
        self._pace.prepare()
        self.journal = Journal(self.job.settings, self._state.step, list(self.job.valid))
        return 0.0

    def elapsed_s(self) -> float:
        """Seconds of training, earlier starts counted in."""
        return time.monotonic() - self._started

    def due(self, state: State) -> bool:
        """Tell whether this step has an entry; the same answer on every rank."""
        return self._has_entry(state.step)

    def _has_entry(self, step: int) -> bool:
        return step % self.job.settings.monitor.every_steps == 0 or step == self.job.num_steps

    def collect(self, result: Tensor) -> None:
        """Keep what a step gave (this rank's part of loss and error) on the device until an entry is due."""
        self._results.append(result)
        self._profile.step()

    def write(self, state: State, lr: float) -> None:
        """Write the entry of a training step, where one is due. Collective.

        Raises NotFinite where the loss of a step since the last look is not finite, unless such steps are skipped.
        """
        if not self._results:
            return  # every step since the last look was left out
        results = torch.stack(self._results)
        self._results = []
        sums = total(results.flatten().tolist(), self.job.device)  # the only place that waits for the device
        for number, (loss, rel_l2) in enumerate(zip(sums[::2], sums[1::2], strict=True)):
            if not math.isfinite(loss):
                self._not_finite(state.step - len(results) + 1 + number, loss, rel_l2)
        loss, rel_l2 = sums[-2:]
        if not self.due(state) or not math.isfinite(loss):
            return
        values = {"train/loss": loss, "train/rel_l2": rel_l2, "train/lr": lr}
        norm = self.job.engine.watch.take_norm()
        if norm is not None:
            values["train/grad_norm"] = norm
        self._entry(state, {**values, **self._pace.read(state), "perf/elapsed_s": self.elapsed_s()})
        if self.main:
            self.progress.update(state.step, f"error {rel_l2:.4f}" + (f", {self._note}" if self._note else ""))

    def _not_finite(self, step: int, loss: float, rel_l2: float) -> None:
        """Stop, or tell that a step was left out. Where the error is finite it was the gradient that was not."""
        if self.job.settings.optim.on_nonfinite != "skip":
            check_finite(self.job, step, "gradient" if math.isfinite(rel_l2) else "loss", loss)
        if self.main:
            warn(f"no update in step {step}: its gradient is not finite ({_named(_samples(self.job, step))})")

    def validated(self, state: State, measured: dict[str, Measured], improved: bool) -> None:
        """Write the entry of a validation by system, with pictures now and then. Collective."""
        self._note = f"valid {state.last_rel_l2:.4f}"
        values = {"valid/rel_l2": state.last_rel_l2 or 0.0} if len(measured) > 1 else {}
        for system, one in measured.items():
            values |= {f"valid/{system}/rel_l2": one.rel_l2, f"valid/{system}/loss": one.loss}
            if one.spectrum is not None:
                bands = by_band(one.spectrum, self.job.architecture.modes)
                values |= {f"spectrum/{system}/{band}": error for band, error in bands.items()}
        self._entry(state, values)
        if self._pictures.due(state, improved):
            for system, one in measured.items():
                self._show(state, system, one)
        self._pace.restart(state)  # validation is not training speed: the next rate starts here

    def _show(self, state: State, system: str, measured: Measured) -> None:
        """Draw a system's first validation samples and its error by wavenumber. Collective."""
        fields = self._pictures.predict(system)
        if self.journal is not None:
            with self._trouble.kept():
                title = f"{system}, {measured.count} validation samples, step {state.step:,}"
                for kind, pixels in self._pictures.draw(fields, measured.spectrum, title).items():
                    self.journal.picture(f"valid/{system}/{kind}", state.step, pixels)

    def _entry(self, state: State, values: Mapping[str, float]) -> None:
        if self.journal is not None:
            with self._trouble.kept():
                self.journal.entry(state.step, state.epoch, values)


class NotFinite(SettingsError):  # noqa: N818 - says what it is
    """Training has diverged at ``step``, in the batch of these training ``samples``."""

    def __init__(self, message: str, step: int, samples: list[int]) -> None:
        super().__init__(message)
        self.step, self.samples = step, samples


def check_finite(job: Job, step: int, name: str, value: float) -> None:
    """Raise NotFinite where training has diverged: the same on every rank, as the value is."""
    if not math.isfinite(value):
        samples = _samples(job, step)
        is_what = "not finite" if name == "gradient" else str(value)
        raise NotFinite(f"the {name} of {job.run} is {is_what} at step {step} ({_named(samples)})", step, samples)


def _samples(job: Job, step: int) -> list[int]:
    """Return the training samples in the batch of a step; none before the first."""
    if step == 0:
        return []
    loader = job.loader
    epoch, index = divmod(step - 1, loader.num_batches)
    batch = global_batch(loader.samples.order(loader.seed, epoch), index, loader.batch_size)
    return [int(one) for one in loader.samples.numbers(batch)]


def _named(numbers: list[int]) -> str:
    """Name training samples, the first few of many."""
    if not numbers:
        return "before the first"
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"training samples {', '.join(map(str, numbers[:8]))}{more}"
