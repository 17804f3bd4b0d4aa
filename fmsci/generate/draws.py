"""Random numbers that belong to a sample, not to a process.

Each (seed, system, range, split, attempt) has its own Philox stream, and sample i owns a fixed stretch of it. Whoever
needs sample i goes straight there: no rank, shard, batch or restart changes a number, and a run of samples is one
vectorised draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUMBERS_PER_COUNT = 4
"""64-bit numbers that one step of Philox's counter gives."""

NUMBERS_PER_SAMPLE = 320
"""A sample's stretch of the stream: more than any system needs today, so that a new one changes no old data."""


@dataclass(frozen=True)
class Stream:
    """What names a stream. Two data sets that differ in any of these share no numbers."""

    seed: int
    system: str
    range: tuple[float, float]
    split: str

    def key(self, attempt: int) -> int:
        """Return the 128-bit Philox key of one attempt: a hash, so that near seeds give unrelated streams."""
        low, high = (float(end) for end in self.range)
        text = f"fmsci samples 1|{self.seed}|{self.system}|{low!r}|{high!r}|{self.split}|{attempt}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def draw_uniforms(stream: Stream, attempt: int, samples: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the uniform numbers in [0, 1) (B, NUMBERS_PER_SAMPLE) of the ascending ``samples`` (B,) at one attempt.

    Only the raw stream of Philox is used, which numpy promises never to change; 53 bits of each number become the
    double.
    """
    wanted = np.asarray(samples, dtype=np.int64)
    key = stream.key(attempt)
    raw = np.empty((len(wanted), NUMBERS_PER_SAMPLE), dtype=np.uint64)
    begin = 0
    for end in (*(np.flatnonzero(np.diff(wanted) != 1) + 1), len(wanted)):
        if end > begin:  # a run of neighbours is one piece of the stream
            counter = int(wanted[begin]) * (NUMBERS_PER_SAMPLE // NUMBERS_PER_COUNT)
            numbers = np.random.Philox(key=key, counter=counter).random_raw((end - begin) * NUMBERS_PER_SAMPLE)
            raw[begin:end] = numbers.reshape(end - begin, NUMBERS_PER_SAMPLE)
        begin = end
    uniforms: NDArray[np.float64] = (raw >> np.uint64(11)) * 2.0**-53
    return uniforms
