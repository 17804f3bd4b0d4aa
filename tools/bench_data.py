"""Speed of making and reading data, as ratios measured in one run.

    python tools/bench_data.py [--folder DIR] [--rounds N] [--quick] [--json]

It is held against the straightforward way: one sample at a time, 144 exponentials per pixel, full complex fft2, float64
throughout, the whole data set in memory, one HDF5 file at the end. The two take turns on one core, several rounds, in
processor time, and the median of the ratios is printed: other work on the machine then hardly counts. DIR is best in
memory (/dev/shm where there is one); what the disk adds is printed apart, in real time.
"""

# ruff: noqa: E402  (the number of threads is set before numpy is imported)
from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import h5py
import numpy as np

from fmsci.config import GenerateSettings, parse
from fmsci.generate import generate
from fmsci.shards import open_split
from fmsci.world import World

N = 128
RANGES = {"poisson": (1.0, 5.0), "advection_diffusion": (0.2, 1.0), "helmholtz": (1.0, 10.0)}
TARGETS = {"poisson": 40, "advection_diffusion": 30, "helmholtz": 30}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    straight: int
    """Samples of one round of the straightforward way."""
    ours: int
    ranks: bool


def straight_source(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, keep_mean: bool) -> np.ndarray:
    """Sum 144 Gaussians, each over the whole grid."""
    sparsity = rng.choice([0.2, 0.4, 0.6, 0.8])
    amplitudes = np.zeros(144)
    for at in range(144):
        if rng.random() > sparsity:
            amplitudes[at] = 1e-3 + (1 - 1e-3) * rng.random()
    centres = 0.15625 + np.arange(12) / 16
    exponents = [((x - cx) ** 2 + (y - cy) ** 2) / (2 * (1 / 32) ** 2) for cy in centres for cx in centres]
    source = 0 * exponents[0]
    for amplitude, exponent in zip(amplitudes, exponents, strict=True):
        source += amplitude * np.exp(-exponent)
    source = source / source.max()
    return np.asarray(source if keep_mean else source - source.mean())


def straight_sample(
    system: str, rng: np.random.Generator, axis: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Return source, solution and coefficients of one sample, the straightforward way."""
    x, y = np.meshgrid(axis, axis)
    k = np.fft.fftfreq(N, 1 / N)
    kx, ky = np.meshgrid(k, k)
    low, high = RANGES[system]
    while True:
        source = straight_source(rng, x, y, keep_mean=system == "helmholtz")
        if system == "helmholtz":
            w = float(rng.integers(int(low), int(high) + 1))
            symbol = 0.01 * 4 * np.pi**2 * (kx**2 + ky**2) - w
            coefficients = [0.01, w]
        else:
            angle = 2 * np.pi * rng.random()
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            ratio = low + (high - low) * rng.random() if system == "poisson" else 1 + 4 * rng.random()
            tensor = 0.01 * turn.T @ np.diag([1.0, ratio]) @ turn
            weight, velocity = 0.0, np.zeros(2)
            if system == "advection_diffusion":
                weight = 0.02 + 0.1 * rng.random()  # a plain draw; the real code looks it up in a table
                direction = 2 * np.pi * rng.random()
                velocity = weight * np.array([np.cos(direction), np.sin(direction)])
            tensor *= 1 - weight
            quadratic = tensor[0, 0] * kx**2 + tensor[1, 1] * ky**2 + 2 * tensor[0, 1] * kx * ky
            symbol = 4 * np.pi**2 * quadratic + 2j * np.pi * (velocity[0] * kx + velocity[1] * ky)
            coefficients = [tensor[0, 0], tensor[1, 1], tensor[0, 1], *velocity][: 3 if system == "poisson" else 5]
        inverse = np.where(symbol == 0, 0, 1 / np.where(symbol == 0, 1, symbol))
        solution = np.real(np.fft.ifft2(np.fft.fft2(source) * inverse))
        if system != "helmholtz" or np.abs(solution).max() <= 2:
            return source, solution, coefficients


def time_straight(system: str, folder: Path, seed: int, samples: int) -> float:
    """Return seconds per sample of the straightforward way, writing included."""
    rng = np.random.default_rng(seed)
    begin = time.process_time()
    axis = np.arange(N) / N
    fields = np.zeros((samples, 2, N, N))
    tensor = []
    for at in range(samples):
        fields[at, 0], fields[at, 1], coefficients = straight_sample(system, rng, axis)
        tensor.append(coefficients)
    with h5py.File(folder / "straight.h5", "w") as file:
        file.create_dataset("fields", data=fields, dtype="<f4")
        file.create_dataset("tensor", data=np.array(tensor), dtype="<f4")
    return (time.process_time() - begin) / samples


def time_ours(system: str, folder: Path, seed: int, samples: int) -> float:
    """Return seconds per sample of fmsci generate: drawn, solved, checked, written, published, with its manifest."""
    output = folder / "ours"
    shutil.rmtree(output, ignore_errors=True)
    request = {"system": system, "range": RANGES[system], "grid": N, "seed": seed, "output": str(output)}
    settings = parse(GenerateSettings, {**request, "train": samples - 2, "valid": 1, "test": 1}, "bench")
    begin = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        generate(settings, World())
    return (time.process_time() - begin) / samples


def time_inverse(samples: int = 256) -> float:
    """Return seconds per sample of the inverse transform alone."""
    spectrum = np.fft.rfft2(np.random.default_rng(0).standard_normal((N, N)))
    begin = time.process_time()
    for _ in range(samples):
        np.fft.irfft2(spectrum, s=(N, N))
    return (time.process_time() - begin) / samples


def time_ranks(ranks: int, folder: Path, samples: int) -> float:
    """Return the seconds that a whole command takes."""
    output = folder / "ranks"
    shutil.rmtree(output, ignore_errors=True)
    words = ["system=poisson", "range=[1,5]", f"grid={N}", f"train={samples}", "valid=2", "test=2", "shard_samples=128"]
    launcher = [] if ranks == 1 else [str(Path(sys.executable).parent / "mpiexec"), "-n", str(ranks)]
    begin = time.perf_counter()
    command = [*launcher, sys.executable, "-m", "fmsci", "generate", *words, f"output={output}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def speedup_of_two_ranks(folder: Path, rounds: int) -> float:
    """Return how many times faster two ranks are than one, start-up left out: times of two sizes are subtracted.

    Of each the shortest of several rounds counts: both cores must be free for a moment.
    """
    times = {(ranks, size): np.inf for ranks in (1, 2) for size in (512, 4608)}
    for _ in range(rounds):
        for ranks, size in times:
            times[ranks, size] = min(times[ranks, size], time_ranks(ranks, folder, size))
    return float((times[1, 4608] - times[1, 512]) / (times[2, 4608] - times[2, 512]))


def reading_rate(folder: Path) -> float:
    """Return samples per second of random batches of 128 from a warm cache, one process."""
    reader = open_split(folder / "ours", "train")
    order = np.random.default_rng(0).permutation(len(reader))
    out = np.empty((128, 2, N, N), np.float32)
    rates = []
    for _ in range(5):
        begin = time.perf_counter()
        for at in range(0, len(order) - 127, 128):
            reader.gather(order[at : at + 128], out)
        rates.append((len(order) // 128) * 128 / (time.perf_counter() - begin))
    return max(rates)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Stay on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(folder: Path, disk: Path, rounds: int, size: Size) -> dict[str, float]:
    """Return every figure by name, printing them as they come."""
    result: dict[str, float] = {}

    def tell(name: str, value: float, text: str) -> None:
        result[name] = value
        print(text, flush=True)

    with one_core():
        for system, target in TARGETS.items():
            time_ours(system, folder, 0, 64)
            pairs = [
                (time_straight(system, folder, at, size.straight), time_ours(system, folder, at, size.ours))
                for at in range(rounds)
            ]
            straight, ours = (1e6 * statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            tell(
                f"{system}_ratio",
                ratio,
                f"{system}: {ratio:.1f}x (target {target}x), {ours:.0f} us a sample, written, "
                f"against {straight:,.0f} us the straightforward way",
            )
        pairs = [(time_ours("poisson", folder, at, size.ours), time_inverse()) for at in range(rounds)]
        ratio = statistics.median(a / b for a, b in pairs)
        tell("over_inverse", ratio, f"poisson takes {ratio:.1f} times the inverse transforms alone (hoped for: 2)")
        rate = reading_rate(folder)
        tell("reading_rate", rate, f"reading: {rate:,.0f} samples/s in random batches of 128, warm cache, one process")
        begin = time.perf_counter()
        time_ours("poisson", disk, 0, 2 * size.ours)
        seconds = (time.perf_counter() - begin) / (2 * size.ours)
        tell("on_disk_us", 1e6 * seconds, f"poisson on {disk}: {1e6 * seconds:.0f} us a sample, synced to the disk")
    if size.ranks and len(os.sched_getaffinity(0)) > 1:
        speedup = speedup_of_two_ranks(folder, rounds)
        tell("two_ranks", speedup, f"two ranks: {speedup:.2f} times one rank (target 1.9)")
    return result


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few samples, one core: to see that it runs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as memory, tempfile.TemporaryDirectory() as disk:
        size = Size(4, 256, ranks=False) if arguments.quick else Size(24, 1024, ranks=True)
        result = measure(Path(memory), Path(disk), arguments.rounds, size)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
