"""Time one point on the ranks that there are: its steps, and the same steps without any exchange, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import fmsci
from fmsci.config import ScalingSettings
from fmsci.config.sections import DataSettings, EngineSettings, OptimSettings
from fmsci.dataset.build import build_data
from fmsci.dataset.loader import Batch, Loader
from fmsci.dataset.order import epoch_order
from fmsci.dataset.samples import Samples, SampleSource, empty_samples
from fmsci.engine.api import Engine
from fmsci.engine.build import build_engine
from fmsci.engine.ddp import DDPEngine
from fmsci.engine.device import pick_device, set_threads
from fmsci.engine.group import process_group
from fmsci.engine.probe import clock_after_barrier, gather_facts
from fmsci.engine.replay_rule import numbers_of_step
from fmsci.errors import SettingsError
from fmsci.files import write_json
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import check_grid
from fmsci.scaling.points import Point, plan, result_path
from fmsci.train.optim import build_optimizer
from fmsci.world import World, collect_garbage, keep_freed_memory

POOL = 32
"""Different samples that are kept in memory where no data are read."""

LR = 1e-6
EPOCHS = 1_000_000


class Made:
    """Samples of noise in memory: what they hold changes no time."""

    def __init__(self, grid: int, coefficients: int, count: int) -> None:
        self.grid, self.columns = grid, tuple(f"c{number}" for number in range(coefficients))
        self._count = count
        self._pool = np.random.default_rng(0).standard_normal((POOL, 2, grid, grid), dtype=np.float32)

    def __len__(self) -> int:
        return self._count

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """See :class:`fmsci.dataset.samples.SampleSource`."""
        return epoch_order(seed, epoch, self._count)

    def numbers(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`fmsci.dataset.samples.SampleSource`."""
        return indices

    def gather(self, indices: NDArray[np.int64], pin: bool = False) -> Samples:
        """See :class:`fmsci.dataset.samples.SampleSource`."""
        samples = empty_samples(len(indices), self.grid, len(self.columns), pin)
        samples.fields.copy_(torch.from_numpy(self._pool[indices % POOL]))
        samples.coefficients.fill_(1.0)
        return samples


def measure(settings: ScalingSettings, number: int, world: World) -> dict[str, Any]:
    """Time point ``number`` of the plan on these ranks; rank 0 writes its result. Collective.

    Raises SettingsError where there is no such point, or the ranks are not as many as it needs.
    """
    points = plan(settings)
    if not 0 <= number < len(points):
        raise SettingsError(f"there is no point {number}: {settings.run} has {len(points)}, from 0")
    point = points[number]
    if point.world_size != world.size:
        raise SettingsError(f"point {number}, {point.name}, needs {point.world_size} ranks, not {world.size}")
    device = pick_device(point.how.device, world)
    timeouts = point.how.timeout_s, point.how.rendezvous_s
    with process_group(world, device, *timeouts, always=point.how.kind == "zero"):
        facts = gather_facts(_Bench(settings, point, world, device).run(), device)
        result = _summary(point, facts, device)
        if world.is_main:
            write_json(result_path(settings.run, point), result)
    return result


def alone_settings(point: Point, device: str) -> EngineSettings:
    """Return the engine of a point's steps without exchange.

    It replays where several ranks would, one rank too: what a replay saves would pass for time of the exchange.
    """
    how = {name: getattr(point.how, name) for name in ("precision", "recompute", "transform")}
    return EngineSettings(**how, replay=point.replayed and device == "cuda")


class _Bench:
    """The step of a point with its exchange, and one of the same size that every rank makes for itself."""

    def __init__(self, settings: ScalingSettings, point: Point, world: World, device: torch.device) -> None:
        self.settings, self.point, self.world, self.device = settings, point, world, device
        set_threads(point.how.threads, world)
        if device.type == "cpu":
            keep_freed_memory(point.shape.largest_parameter_bytes)
        check_grid(point.shape.modes, point.grid, point.grid)
        self.together = self._engine(point.how, world)[0]
        own = alone_settings(point, device.type)
        self.replayed = own.replay
        collect_garbage()
        held = self._allocated()
        self.alone, self.optimizer = self._engine(own, World())
        if isinstance(self.alone, DDPEngine) and (world.size > 1 or point.how.kind == "zero"):
            self.alone.leaving.clear()  # nor are gradients left to the next step, as several ranks leave none
        self.beside = self._allocated() - held  # no memory of the point's own step
        samples = self._samples()
        self.loader = Loader(
            samples, point.batch, 0, world.rank, world.size, point.how.accumulate, device, epochs=EPOCHS
        )

    def _engine(self, how: EngineSettings, world: World) -> tuple[Engine, torch.optim.Optimizer]:
        torch.manual_seed(0)
        scales = Scales(1.0, {f"c{number}": 1.0 for number in range(self.point.coefficients)})
        operator = SolutionOperator(self.point.shape, scales, backend=how.transform, recompute=how.recompute)
        operator = operator.to(self.device)
        optimizer = build_optimizer(operator, OptimSettings(epochs=1, lr=LR))
        numbers = numbers_of_step(self.point.shape, self.point.local, self.point.grid)
        return build_engine(how, operator, optimizer, world, None, numbers=numbers), optimizer

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0

    def _samples(self) -> SampleSource:
        point = self.point
        if self.settings.data is None:
            return Made(point.grid, point.coefficients, 8 * point.batch)
        data = build_data(DataSettings(path=self.settings.data)).train
        if data.grid != point.grid or len(data.columns) != point.coefficients or len(data) < point.batch:
            raise SettingsError(
                f"{self.settings.data} has {len(data)} samples of {data.grid} x {data.grid} with {len(data.columns)} "
                f"coefficients; the point needs {point.batch} of {point.grid} x {point.grid} with {point.coefficients}"
            )
        return data

    def run(self) -> dict[str, Any]:
        """Return this rank's times, in seconds of one step, one for each repeat."""
        batches = self._batches()
        collect_garbage()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            for _ in range(self.settings.warmup):
                self._settle(self.together.step(next(batches), LR))
            memory = None
            if self.device.type == "cuda":
                memory = torch.cuda.max_memory_allocated(self.device) - self.beside
            own = map(self._own, batches)
            for _ in range(2):
                self._settle(self.alone.step(next(own), LR))
            update = self._update_s()
            found: dict[str, list[float]] = {"step": [], "alone": [], "wait": []}
            for _ in range(self.settings.repeats):
                step, wait = self._repeat(self.together, batches)
                found["step"].append(step)
                found["wait"].append(wait)
                found["alone"].append(self._repeat(self.alone, own)[0])
        finally:
            self.loader.close()
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        facts = {"host": self.world.host, "device": name, "threads": torch.get_num_threads(), "memory": memory}
        return facts | {"update": update, "replayed": self.replayed} | found

    def _batches(self) -> Iterator[Batch]:
        for epoch in range(EPOCHS):
            # whole batches only: the last, shorter one of an epoch would be another point
            count = len(self.loader.samples) // self.loader.batch_size
            for index, batch in enumerate(self.loader.epoch(epoch)):
                if index < count:
                    yield batch

    def _own(self, batch: Batch) -> Batch:
        """Return this rank's part as a batch of its own: one rank replays whole batches alone."""
        return replace(batch, global_count=sum(piece.count for piece in batch.pieces)) if self.replayed else batch

    def _repeat(self, engine: Engine, batches: Iterator[Batch]) -> tuple[float, float]:
        """Return seconds of a step and of waiting for its data, of ``steps`` in a row."""
        waited = self.loader.wait_s
        clock_after_barrier()
        begun = time.perf_counter()
        for _ in range(self.settings.steps):
            last = engine.step(next(batches), LR)
        self._settle(last)
        took = time.perf_counter() - begun
        return took / self.settings.steps, (self.loader.wait_s - waited) / self.settings.steps

    def _update_s(self) -> float:
        """Return seconds of the optimizer's update of all parameters, of gradients that are zero."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        clock_after_barrier()
        took = [self._timed(self.optimizer.step) for _ in range(5)]
        self.optimizer.zero_grad()
        return statistics.median(took)

    def _timed(self, work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - begun

    @staticmethod
    def _settle(result: torch.Tensor) -> None:
        """Wait for the device."""
        result.tolist()


def _summary(point: Point, facts: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """Return the result of all ranks: in every repeat the slowest one counts; then the median."""

    def slowest(what: str) -> list[float]:
        return [max(values) for values in zip(*(fact[what] for fact in facts), strict=True)]

    steps = slowest("step")
    ranks = [statistics.median(fact["alone"]) for fact in facts]
    memory = [fact["memory"] for fact in facts if fact["memory"] is not None]
    return {
        "point": point.facts(),
        "nodes": len({fact["host"] for fact in facts}),
        "device": facts[0]["device"],
        "step_s": statistics.median(steps),
        "low_s": min(steps),
        "high_s": max(steps),
        "alone_s": statistics.median(slowest("alone")),
        "update_s": statistics.median(fact["update"] for fact in facts),
        "wait_s": statistics.median(slowest("wait")),
        "memory_bytes": max(memory) if memory else None,
        "fastest_rank_s": min(ranks),
        "slowest_rank_s": max(ranks),
        "repeats": {"step": steps, "alone": slowest("alone"), "wait": slowest("wait")},
        "hosts": [fact["host"] for fact in facts][:64],
        "threads": facts[0]["threads"],
        "replayed": facts[0]["replayed"],
        "version": fmsci.__version__,
        "torch": torch.__version__,
    }
