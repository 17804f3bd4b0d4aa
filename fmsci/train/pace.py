"""How fast a stretch of steps went, and what held it up: rates, waits, use of the device, the slowest rank."""

from __future__ import annotations

import time

from fmsci.engine.collective import by_rank
from fmsci.engine.device import peak_memory, product_rate
from fmsci.model.sizes import STEP_FLOPS
from fmsci.train.build import Job
from fmsci.train.state import State


class Pace:
    """The clock of the steps from one entry to the next."""

    def __init__(self, job: Job, state: State) -> None:
        self._job = job
        grid = job.loader.samples.grid
        self._sample_flops = STEP_FLOPS * job.architecture.flops(grid, grid)
        self._reachable: float | None = None
        self.restart(state)

    def prepare(self) -> None:
        """Measure what this rank's device can reach, before the first step; the ranks are taken to be alike."""
        if self._reachable is None:
            self._reachable = product_rate(self._job.device, self._job.settings.engine.precision)

    def restart(self, state: State) -> None:
        """Begin a stretch of steps."""
        self._since, self._step, self._samples = time.monotonic(), state.step, state.samples_seen
        self._data_s = self._job.loader.wait_s
        self._job.engine.watch.take_wait_s()

    def read(self, state: State) -> dict[str, float]:
        """Return the figures of the stretch that ends here, on every rank, and begin the next. Collective.

        The device has done what was asked of it: the loss was read just before. Ranks step together, so the one that
        waits least for the others is the slowest: its own time is the stretch without that waiting.
        """
        job = self._job
        passed = max(time.monotonic() - self._since, 1e-9)
        steps, samples = state.step - self._step, state.samples_seen - self._samples
        data_s = job.loader.wait_s - self._data_s
        others_s = job.engine.watch.take_wait_s()
        self.restart(state)
        ranks = by_rank([passed, data_s, others_s, float(peak_memory(job.device))], job.device)
        walls, data, others, peaks = ranks.T  # as columns: there may be thousands of ranks, and steps of milliseconds
        own_ms = 1000.0 * (walls - others) / steps
        slowest, fastest = int(own_ms.argmax()), int(own_ms.argmin())
        rate = samples / passed
        figures = {
            "perf/samples_per_s": rate,
            "perf/step_ms": 1000.0 * passed / steps,
            "perf/data_wait": data_s / passed,  # of rank 0; the name of earlier versions
            "perf/data_wait_pct": 100.0 * float((data / walls).mean()),
            "perf/comm_pct": 100.0 * float((others / walls).mean()),
            "memory/peak_gib": float(peaks.max()) / 2**30,
            "perf/ranks": float(len(ranks)),
            "perf/slowest_rank": float(slowest),
            "perf/slowest_rank_ms": float(own_ms[slowest]),
            "perf/fastest_rank": float(fastest),
            "perf/fastest_rank_ms": float(own_ms[fastest]),
        }
        if self._reachable is not None:
            figures["perf/flops_utilisation"] = rate * self._sample_flops / (self._reachable * len(ranks))
        return figures
