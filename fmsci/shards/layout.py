"""Names and versions of the file format, in one place. docs/format.md says the same in prose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FORMAT_VERSION = 1
SPLITS = ("train", "valid", "test")
MANIFEST = "manifest.json"

FIELDS = "fields"
"""(N, 2, n, n) float32: source, solution."""
TENSOR = "tensor"
"""(N, K) float32: the system's coefficients."""
SAMPLE_ID = "sample_id"
"""(N,) int64: the sample's number in its split."""

FIGURES = {"residual": "<f4", "pair_error": "<f4", "source_norm": "<f8", "solution_norm": "<f8", "solution_max": "<f4"}
"""(N,) figures of every sample, with their dtypes. residual: ||L u - f|| / ||f|| in float64, before storing;
pair_error: ||u - solve(f)|| / ||u|| of the stored pair, for one in 16 samples, NaN for the others; the norms are
||.||_2 / n, the L2 norm on the unit square; solution_max is max|u|."""

ACCEPTANCE = "acceptance"
"""(W, 3) int64, where draws can be rejected: a whole number, and how many draws with a value from it up to the next
were made and accepted."""

HEADER_BYTES = 4096
"""Bytes before the HDF5 content, HDF5's own user block: one line of text with the checksum of everything after it."""


def shard_name(split: str, index: int) -> str:
    """Return a shard's path inside its data folder: ``train/shard-00000.h5``."""
    return f"{split}/shard-{index:05d}.h5"


def split_name(split: str) -> str:
    """Return the file inside a data folder that shows a whole split as one: ``train.h5``."""
    return f"{split}.h5"


def shard_path(folder: Path, split: str, index: int) -> Path:
    """Return the path of a shard of the data folder."""
    return folder / shard_name(split, index)


@dataclass(frozen=True)
class ShardLayout:
    """What a shard will hold, known before its samples are."""

    file: str
    """Path inside the data folder."""
    first: int
    count: int
    grid: int
    num_columns: int
    figures: Mapping[str, str]
    """Names and dtypes of the (N,) datasets beside fields, tensor and sample_id."""
    tables: Mapping[str, tuple[tuple[int, ...], str]]
    """Names, shapes and dtypes of datasets that are not one row per sample."""
    attributes: Mapping[str, int | str | Sequence[float] | Sequence[str]]

    def datasets(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and dtype of every dataset; fields come first in the file."""
        n = self.count
        return {
            FIELDS: ((n, 2, self.grid, self.grid), "<f4"),
            TENSOR: ((n, self.num_columns), "<f4"),
            SAMPLE_ID: ((n,), "<i8"),
            **{name: ((n,), dtype) for name, dtype in self.figures.items()},
            **self.tables,
        }
