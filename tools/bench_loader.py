"""Speed of the samples on their way to the model, against torch's DataLoader over HDF5, in one run.

    python tools/bench_loader.py [--folder DIR] [--rounds N] [--quick] [--json]

Batches of 128 samples of 128 x 128 in a random order over the whole split, from a warm cache, one process. The peer
opens one HDF5 file, reads one sample at a time and lets torch's DataLoader make the batches, without workers and with
two. Then the wait for data while the 64K model trains on all cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fmsci.config import GenerateSettings, parse
from fmsci.config.sections import OptimSettings
from fmsci.dataset.cache import CacheKind, cached
from fmsci.dataset.loader import Loader
from fmsci.dataset.samples import SampleSet
from fmsci.engine.ddp import DDPEngine
from fmsci.generate import generate
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import architecture
from fmsci.train.optim import build_optimizer
from fmsci.world import World, keep_freed_memory, num_cores

CPU = torch.device("cpu")
GRID = BATCH = 128


class OneByOne(Dataset[Any]):
    """The plain way: one HDF5 file, opened where it is first read, one sample an item."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        self._file: h5py.File | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self._file is None:
            self._file = h5py.File(self.path)
        return self._file["fields"][index], self._file["tensor"][index]


def rate(batches: Callable[[], Iterable[Any]], count: int, rounds: int) -> float:
    """Return samples per second, the median of several passes after one that warms up."""
    found = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        for _ in batches():
            pass
        found.append(count / (time.perf_counter() - begin))
    return statistics.median(found[1:])


def loader(data: Path, cache: CacheKind, epochs: int = 0, batch: int = BATCH) -> Loader:
    """Return the loader of a training run of one process."""
    samples = cached(SampleSet(data, "train"), cache, CPU, processes=1)
    return Loader(samples, batch, seed=0, rank=0, world_size=1, accumulate=1, device=CPU, epochs=epochs)


def wait_for_data(data: Path, steps: int, batch: int) -> float:
    """Return the share of training time that the 64K model waits for its batches, in percent."""
    torch.set_num_threads(num_cores())
    keep_freed_memory()
    operator = SolutionOperator(architecture(4, "64K"), Scales(1.0, {"k11": 1.0, "k22": 1.0, "k12": 1.0}))
    optim = OptimSettings(epochs=1)
    engine = DDPEngine(operator, build_optimizer(operator, optim), World(), None)
    batches = loader(data, "none", epochs=100, batch=batch)
    done = epoch = 0
    begin = waited = 0.0
    while done < steps:
        for one in batches.epoch(epoch):
            engine.step(one, 1e-3)
            done += 1
            if done == 2:  # the first steps make buffers and read the files
                begin, waited = time.perf_counter(), batches.wait_s
            if done >= steps:
                break
        epoch += 1
    share = 100 * (batches.wait_s - waited) / (time.perf_counter() - begin)
    batches.close()
    return share


def measure(folder: Path, count: int, rounds: int, steps: int, batch: int) -> dict[str, float]:
    """Return every figure by name, printing them as they come."""
    data = folder / "data"
    request = {"system": "poisson", "range": [1, 5], "grid": GRID, "train": count, "valid": 1, "test": 1}
    generate(parse(GenerateSettings, {**request, "shard_samples": 512, "output": str(data)}, "bench"), World())
    with h5py.File(data / "train.h5") as split, h5py.File(folder / "one.h5", "w") as whole:
        for name in ("fields", "tensor"):
            whole.create_dataset(name, data=split[name][:])
    result: dict[str, float] = {}

    def tell(name: str, value: float, text: str) -> None:
        result[name] = value
        print(text, flush=True)

    one = OneByOne(folder / "one.h5", count)
    for workers in (0, 2):
        plain = DataLoader(one, batch_size=BATCH, shuffle=True, num_workers=workers)
        value = rate(lambda plain=plain: plain, count, max(1, rounds // 2))  # type: ignore[misc]
        tell(f"dataloader_{workers}", value, f"torch DataLoader, {workers} workers: {value:,.0f} samples/s")
    fastest = max(result.values())
    for cache in ("none", "host"):
        ours = loader(data, cache)
        value = rate(lambda ours=ours: ours.epoch(0), count, rounds)  # type: ignore[misc]
        result[f"ratio_{cache}"] = value / fastest
        tell(
            f"loader_{cache}",
            value,
            f"ours, cache={cache}: {value:,.0f} samples/s, {value / fastest:.1f}x (target 40,000)",
        )
    share = wait_for_data(data, steps, batch)
    tell("wait_percent", share, f"the 64K model waits {share:.3f}% of its training time for data (target 1%)")
    return result


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where to put the data for the time of the run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="few samples and steps: to see that it runs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    count, steps, batch = (512, 4, 16) if arguments.quick else (4096, 12, BATCH)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        result = measure(Path(folder), count, arguments.rounds, steps, batch)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
