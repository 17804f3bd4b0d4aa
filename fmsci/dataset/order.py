"""Which sample comes next: pure functions of (seed, epoch, position), the same for any number of ranks.

The state of an epoch is one integer, the number of batches done, so a run resumes at the same sample on any world size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def epoch_order(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """Return the permutation of 0..num_samples-1 for one epoch, (num_samples,).

    Sorting raw Philox numbers: the raw stream of a bit generator is fixed for good, that of shuffles is not.
    """
    raw = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num_samples)
    return np.argsort(raw, kind="stable").astype(np.int64)


def num_batches(num_samples: int, batch_size: int) -> int:
    """Return the optimizer steps of an epoch; the last, shorter batch is kept."""
    return -(-num_samples // batch_size)


def global_batch(order: NDArray[np.int64], index: int, batch_size: int) -> NDArray[np.int64]:
    """Return the sample numbers of the global batch ``index`` of an epoch."""
    return order[index * batch_size : (index + 1) * batch_size]


def share(count: int, parts: int, part: int) -> slice:
    """Return the slice of 0..count-1 that belongs to ``part`` of ``parts``; sizes differ by at most one."""
    small, larger = divmod(count, parts)
    start = part * small + min(part, larger)
    return slice(start, start + small + (part < larger))
