"""Checkpoints of a run: copied to the host at a step boundary, written by a thread while training goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fmsci.checkpoint import newest_checkpoint, save_checkpoint
from fmsci.engine.api import Snapshot
from fmsci.engine.collective import decided_by_main
from fmsci.errors import UserError
from fmsci.train.build import Job
from fmsci.train.outcome import DIVERGED
from fmsci.train.state import State
from fmsci.train.trouble import Trouble


class Saver:
    """Saves one checkpoint at a time; a second one waits until the first is written.

    What goes wrong while writing (a full disk, weights that are not finite), here or elsewhere on rank 0, is raised at
    the next ``save`` or at ``close``, on every rank. The checkpoints from before stay as they are.
    """

    def __init__(self, job: Job, trouble: Trouble) -> None:
        self._job = job
        self._trouble = trouble
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the writer, whatever else went wrong: what it has begun is good."""
        if self._thread is not None:
            self._thread.join()

    def save(self, state: State) -> None:
        """Begin to save everything that a restart needs. Collective."""
        job = self._job
        self.close()
        snapshot = job.engine.snapshot()
        if job.world.is_main:
            saved = {"position": state.as_dict(), "model": job.model_facts}
            self._thread = threading.Thread(target=self._write, args=(state.step, saved, snapshot, self._stays(state)))
            self._thread.start()

    def close(self) -> None:
        """Wait until the last checkpoint is written. Collective. Raises UserError where it could not be."""
        decided_by_main(self._job.world, self._job.device, self._written)

    def _written(self) -> float:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self._trouble.told()

    def _stays(self, state: State) -> Callable[[int], bool]:
        """Return which steps' checkpoints stay beside the newest few: the best, and those of every so many epochs."""
        settings, epoch_steps, best = self._job.settings.checkpoint, self._job.loader.num_batches, state.best_step
        period = None if settings.keep_every_epochs is None else settings.keep_every_epochs * epoch_steps

        def stays(step: int) -> bool:
            return (settings.keep_best and step == best) or (period is not None and step % period == 0)

        return stays

    def _write(self, step: int, saved: dict[str, Any], snapshot: Snapshot, stays: Callable[[int], bool]) -> None:
        """Check and publish; runs in the thread."""
        run, settings = self._job.run, self._job.settings.checkpoint
        with self._trouble.kept():
            wrong = snapshot.not_finite()
            if wrong is not None:
                raise UserError(f"{wrong} of {run} is not finite after step {step}: {advice(self._job)}")
            save_checkpoint(run, step, saved, snapshot.write, settings.keep, stays)


def advice(job: Job) -> str:
    """Return what to do about a diverged run, with the last good checkpoint; no other must be under way."""
    newest = newest_checkpoint(job.run) if job.world.is_main else None
    good = "there is no checkpoint yet" if newest is None else f"the last good checkpoint is {newest[0]}"
    return (
        f"{DIVERGED}; {good}; in another run= lower optim.lr (now {job.peak_lr:g}) or set "
        "optim.warmup and optim.grad_clip"
    )
