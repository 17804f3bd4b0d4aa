"""One start of a run: its lock on the run folder, what asks it to stop, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from fmsci.config import TrainSettings
from fmsci.engine.collective import Agreement, decided_by_main
from fmsci.engine.group import lost_rank
from fmsci.errors import UserError
from fmsci.files import discard, write_json
from fmsci.locks import LOCK, is_locked, lock
from fmsci.terminal import warn
from fmsci.train.outcome import OUTCOME
from fmsci.train.preempt import Preempt
from fmsci.train.recorded import record
from fmsci.train.state import State
from fmsci.train.trouble import Trouble
from fmsci.world import StopSignals, World, stale_lock_s


def forget_outcome(settings: TrainSettings, world: World) -> None:
    """Remove how an earlier start ended, before anything can fail: job scripts read it, a stale one would mislead.

    Where it cannot be removed the folder cannot be locked either, which all ranks are told of. While another process
    trains there it is left alone.
    """
    if world.is_main and not is_locked(settings.run / LOCK):
        discard(settings.run / OUTCOME)


@dataclass
class Attempt:
    """One start of a run. ``locked`` and ``owned`` are set on rank 0, once nobody else may write to the folder.

    Until the start owns it nothing is written there, but that a rank was lost.
    """

    settings: TrainSettings
    world: World
    device: torch.device
    signals: StopSignals
    held: ExitStack
    agreement: Agreement
    deadline: float | None
    position: State = field(default_factory=State)
    locked: bool = False
    owned: bool = False

    def preempt(self, trouble: Trouble, every_minutes: float | None = None) -> Preempt:
        """Return what tells the ranks when to save and when to stop."""
        return Preempt(
            self.settings.run,
            self.world,
            self.signals,
            self.agreement,
            deadline=self.deadline,
            every_minutes=every_minutes,
            failed=trouble.happened,
        )

    def decided_by_main(self, decide: Callable[[], float]) -> float:
        """Return what rank 0 finds, on every rank; its mistake ends them all. Collective."""
        return decided_by_main(self.world, self.device, decide)

    def lock_folder(self) -> None:
        """Lock the run folder for as long as this process lives; on rank 0. A second call changes nothing.

        In a job that was started again it waits a while for a lock that a lost node has left: who held it may have
        saved meanwhile, so what is in the folder is read after this.
        """
        if self.locked:
            return
        run = self.settings.run
        refusal = f"another process is training in {run}; choose another run="
        patience = min(stale_lock_s(), 0.5 * self.settings.engine.timeout_s)  # the other ranks wait meanwhile
        self.held.enter_context(
            lock(run / LOCK, refusal, patience, lambda holder: warn(f"{run}: waiting for {holder}"))
        )
        self.locked = True
        discard(run / OUTCOME)  # a start whose lock was waited for has left one meanwhile

    def own_folder(self) -> float:
        """Lock the run folder; from now on how this start ends is written there."""
        self.lock_folder()
        self.owned = True
        return 0.0

    def take_folder(self) -> float:
        """Lock the run folder and write down the settings; on rank 0."""
        self.own_folder()
        record(self.settings)
        return 0.0

    def ended(self, status: str, why: str, step: int, **more: Any) -> None:
        """Write how this start ended. A failure is told even where it cannot be written."""
        if self.owned or (self.locked and status == "lost"):  # a job script waits for Slurm then, however early it is
            with suppress(*([UserError] if status in {"failed", "lost"} else [])):
                write_json(self.settings.run / OUTCOME, {"status": status, "why": why, "step": step, **more})

    def failure(self, error: RuntimeError) -> Exception | None:
        """Return what to raise instead of one of torch's errors: a lost rank, no memory; None for any other."""
        lost = lost_rank(error, self.world)
        if lost is not None:
            return lost
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return UserError(
                f"out of memory ({self.device.type}) after step {self.position.step}: set engine.accumulate to more "
                f"than {self.settings.engine.accumulate}, use more ranks, or engine.kind=zero; a restart continues "
                "from the last checkpoint"
            )
        return None
