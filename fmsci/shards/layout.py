"""Names and versions of the file format, in one place. docs/format.md says the same in prose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fmsci import __version__
from fmsci.errors import UserError

FORMAT_VERSION = 1
SPLITS = ("train", "valid", "test")
MANIFEST = "manifest.json"
PLAN = "plan.json"
"""What ``fmsci generate`` was asked for, from its first moment on; imported data have none."""
SHEET = "contact_sheet.png"
"""Pictures of some samples, made by ``fmsci data info``."""

MOST_SHARDS = 300_000
"""The most files of a data folder: its manifest has to be one that is read (:data:`fmsci.files.LARGEST_JSON`)."""

FIELDS = "fields"
"""(N, 2, n, n) float32: source, solution."""
TENSOR = "tensor"
"""(N, K) float32: the system's coefficients."""
SAMPLE_ID = "sample_id"
"""(N,) int64: the sample's number in its split."""

FIGURES = {"residual": "<f4", "pair_error": "<f4", "source_norm": "<f8", "solution_norm": "<f8", "solution_max": "<f4"}
"""(N,) figures of every sample, with their dtypes."""

MEANINGS = {
    "residual": "||L u - f|| / ||f|| as solved, in float64, before u and f were rounded to float32",
    "pair_error": "how far the stored u is, at most, from the solution of the stored f: ||u - solve(f)|| / ||u||",
    "source_norm": "||f|| / n, the L2 norm on the unit square",
    "solution_norm": "||u|| / n, the L2 norm on the unit square",
    "solution_max": "max |u|",
}
"""What these figures are, for people."""

ACCEPTANCE = "acceptance"
"""(W, 3) int64, where draws can be rejected: a whole number, and how many draws with a value from it up to the next
were made and accepted."""

HEADER_BYTES = 4096
"""Bytes before the HDF5 content, HDF5's own user block: one line of text with the checksum of everything after it."""


def shard_name(split: str, index: int) -> str:
    """Return a shard's path inside its data folder: ``train/shard-00000.h5``."""
    return f"{split}/shard-{index:05d}.h5"


def check_count(samples: Iterable[int], shard_samples: int) -> None:
    """Raise UserError where splits of so many samples are too many files."""
    counts = list(samples)
    shards = sum(-(-count // shard_samples) for count in counts)
    if shards > MOST_SHARDS:
        enough = -(-sum(counts) // (MOST_SHARDS - len(counts)))
        raise UserError(
            f"shard_samples={shard_samples} makes {shards:,} files, a data folder has {MOST_SHARDS:,} at most; "
            f"give shard_samples={enough} or more"
        )


def split_name(split: str) -> str:
    """Return the file inside a data folder that shows a whole split as one: ``train.h5``."""
    return f"{split}.h5"


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


@dataclass(frozen=True)
class DataFacts:
    """What all shards of a data folder have in common; any shard's layout follows."""

    system: str
    range: tuple[float, float]
    grid: int
    columns: tuple[str, ...]
    figures: tuple[str, ...]
    """Figures of the system, beside those of FIGURES."""
    tallied: int
    """Rows of the table of accepted draws; 0 where the system rejects none."""
    seed: int | None
    """None for data that were imported."""
    options: Mapping[str, str]

    @property
    def title(self) -> str:
        """The data set in words: ``poisson (1, 5)``."""
        return f"{self.system} ({self.range[0]:g}, {self.range[1]:g})"

    def shard(self, split: str, index: int, first: int, count: int) -> ShardLayout:
        """Return what the shard ``index`` of a split holds: its samples first .. first + count - 1."""
        return ShardLayout(
            file=shard_name(split, index),
            first=first,
            count=count,
            grid=self.grid,
            num_columns=len(self.columns),
            figures=FIGURES | dict.fromkeys(self.figures, "<f8"),
            tables={ACCEPTANCE: ((self.tallied, 3), "<i8")} if self.tallied else {},
            attributes={
                "format_version": FORMAT_VERSION,
                "system": self.system,
                "range": self.range,
                "split": split,
                "grid": self.grid,
                "columns": list(self.columns),
                **({} if self.seed is None else {"seed": self.seed}),
                "first": first,
                **{f"option_{name}": choice for name, choice in self.options.items()},
                "code_version": __version__,
            },
        )
