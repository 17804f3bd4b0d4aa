"""The ranks of a generation: MPI where there are several, nothing where there is one. The only importer of mpi4py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from fmsci.errors import UserError
from fmsci.terminal import warn
from fmsci.world import World


class Ranks(Protocol):
    """What generation needs of its ranks: hardly anything, for every sample is made alone."""

    rank: int
    size: int

    def share(self, value: Any) -> Any:
        """Return rank 0's ``value`` on all ranks; all must call it."""

    def collect(self, value: Any) -> list[Any] | None:
        """Return the values of all ranks on rank 0, None elsewhere; all must call it."""

    def report(self, done: int, stop: bool) -> tuple[int, bool]:
        """Tell how many samples this rank has finished and whether it was asked to stop.

        Returns the samples of all ranks as far as they are known here, and whether any rank was asked to stop.
        """

    def settle(self, done: int, stop: bool, watch: Callable[[int], None]) -> bool:
        """Wait until all ranks have come here; ``watch`` is told the samples of all. What is reported then counts anew.

        Returns whether any rank was asked to stop, the same on all.
        """

    def abort(self, message: str, code: int) -> None:
        """End the whole job with this rank's message."""


class Alone:
    """One process, no MPI."""

    rank, size = 0, 1

    def share(self, value: Any) -> Any:
        """Return the value."""
        return value

    def collect(self, value: Any) -> list[Any] | None:
        """Return the one value there is."""
        return [value]

    def report(self, done: int, stop: bool) -> tuple[int, bool]:
        """Return what was given."""
        return done, stop

    def settle(self, done: int, stop: bool, watch: Callable[[int], None]) -> bool:
        """Return what was given."""
        return stop

    def abort(self, message: str, code: int) -> None:
        """Do nothing: the exception that led here ends the process."""


class MpiRanks:
    """The ranks of MPI's COMM_WORLD."""

    TO_MAIN, FROM_MAIN, COLLECTED = 7, 8, 9
    PULSE_S = 0.2
    """Between two messages of a rank, and between two looks of a waiting one, which so leaves its core to others."""
    MESSAGE_S = 0.002
    """By so much for each rank the messages of one are apart at least: rank 0, which makes samples like the others,
    would take in those of thousands instead."""

    def __init__(self, world: World) -> None:
        """Take the rank facts from MPI and hold them against those of the launcher."""
        try:
            from mpi4py import MPI
        except ImportError as error:
            raise UserError(
                f"{world.size} ranks were started but mpi4py cannot be imported ({error}); "
                "install it with: pip install mpi4py mpich (on a cluster only: pip install mpi4py)"
            ) from None
        self._mpi, self._host = MPI, world.host
        self._world = MPI.COMM_WORLD
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        if (self.rank, self.size) != (world.rank, world.size):
            raise UserError(
                f"{world.launcher} started rank {world.rank} of {world.size} "
                f"but mpi4py sees rank {self.rank} of {self.size}: "
                "mpi4py and the launcher come from different MPIs; use the mpiexec of mpi4py's MPI, "
                "or rebuild mpi4py with the launcher's (pip install --no-binary mpi4py mpi4py)"
            )
        self._done = [0] * self.size
        self._settled = [False] * self.size
        self._stop = False
        self._told = False  # rank 0 the others, or another rank rank 0, of being asked to stop
        self._ended = False
        self._sent: list[Any] = []
        self._last_pulse = self._last_sent = -float("inf")
        self._total = 0

    def share(self, value: Any) -> Any:
        """Return rank 0's value."""
        return self._world.bcast(value, root=0)

    def collect(self, value: Any) -> list[Any] | None:
        """Return all values on rank 0. One by one: together, those of many samples may pass the 2 GiB of a gather."""
        if self.rank != 0:
            self._world.send(value, dest=0, tag=self.COLLECTED)
            return None
        return [value, *(self._world.recv(source=rank, tag=self.COLLECTED) for rank in range(1, self.size))]

    def report(self, done: int, stop: bool) -> tuple[int, bool]:
        """Send a message to rank 0, or take in those that have arrived, without waiting and not too often."""
        now = time.monotonic()
        news = stop and not (self._stop or self._told)
        if news or now - self._last_pulse >= self.PULSE_S:
            self._last_pulse = now
            if self.rank == 0 or news or now - self._last_sent >= self.MESSAGE_S * self.size:
                self._last_sent = now
                self._exchange(done, stop, settled=False)
            else:
                self._ended |= self._hear_main()
        self._count(self.rank, done)
        return self._total, self._stop or stop

    def settle(self, done: int, stop: bool, watch: Callable[[int], None]) -> bool:
        """Wait for all ranks; afterwards no message is under way."""
        self._exchange(done, stop, settled=True)
        if self.rank == 0:
            while not all(self._settled):
                time.sleep(self.PULSE_S)
                self._listen()
                watch(self._total)
            watch(self._total)
            self._settled = [False] * self.size
            self._tell_others("end")
        else:
            while not (self._ended or self._hear_main()):
                time.sleep(self.PULSE_S)
        for request in self._sent:
            request.wait()
        self._sent.clear()
        self._done, self._total = [0] * self.size, 0
        self._ended = False
        return self._stop

    def _exchange(self, done: int, stop: bool, settled: bool) -> None:
        if self.rank == 0:
            self._take(0, done, stop, settled)
            self._listen()
        else:
            self._sent = [request for request in self._sent if not request.Test()]
            self._told = self._told or stop
            self._sent.append(self._world.isend((done, stop, settled), dest=0, tag=self.TO_MAIN))
            self._ended |= self._hear_main()  # the last message may be answered at once

    def _take(self, source: int, done: int, stop: bool, settled: bool) -> None:
        self._count(source, done)
        self._settled[source] = settled
        self._stop = self._stop or stop

    def _count(self, source: int, done: int) -> None:
        self._total += done - self._done[source]
        self._done[source] = done

    def _listen(self) -> None:
        """On rank 0: take in what has arrived, and let everybody know when somebody was asked to stop."""
        status = self._mpi.Status()
        while self._world.iprobe(source=self._mpi.ANY_SOURCE, tag=self.TO_MAIN, status=status):
            source = status.Get_source()
            self._take(source, *self._world.recv(source=source, tag=self.TO_MAIN))
        if self._stop and not self._told:
            self._told = True
            self._tell_others("stop")

    def _tell_others(self, what: str) -> None:
        self._sent += [self._world.isend(what, dest=rank, tag=self.FROM_MAIN) for rank in range(1, self.size)]

    def _hear_main(self) -> bool:
        """On the other ranks: True when rank 0 has said that all have settled."""
        while self._world.iprobe(source=0, tag=self.FROM_MAIN):
            if self._world.recv(source=0, tag=self.FROM_MAIN) == "end":
                return True
            self._stop = True
        return False

    def abort(self, message: str, code: int) -> None:
        """Print the message and end every rank: the others would wait for ever."""
        warn(f"rank {self.rank} on {self._host}: {message}")
        time.sleep(self.PULSE_S)  # a launcher that is told to end at once does not read it any more
        self._world.Abort(code)


def build_ranks(world: World) -> Ranks:
    """Return the ranks of this job; UserError where mpi4py is missing or disagrees with the launcher."""
    return Alone() if world.size == 1 else MpiRanks(world)
