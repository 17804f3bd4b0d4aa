"""The manifest: what a data folder holds, how it was made, and the scales that a model trained on it needs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from fmsci.config import Schema, parse
from fmsci.config.sections import Count, Positive, Whole
from fmsci.errors import UserError
from fmsci.files import read_json, write_json
from fmsci.shards.layout import MANIFEST, PLAN, SPLITS, DataFacts, shard_name


class ShardRecord(Schema):
    """One file of a split."""

    file: str
    """Path inside the data folder."""
    first: int
    """Number of its first sample in the split."""
    count: Count
    bytes: int
    checksum: str
    """``crc32:`` and eight hexadecimal digits, of everything after the file's first 4,096 bytes."""

    @property
    def split(self) -> str:
        """The split it belongs to."""
        return self.file.partition("/")[0]


class SplitRecord(Schema):
    """One of train, valid, test."""

    count: Count
    shards: tuple[ShardRecord, ...]


class Scales(Schema):
    """Scales of a model's input, from the training split."""

    source: Positive
    """Median of ||f||_2 / n."""
    coefficients: dict[str, Positive]
    """Median of the absolute non-zero values of each column; 1 where a column has none."""


class Statistic(Schema):
    """Spread of one figure over the samples of a split."""

    min: float
    mean: float
    max: float
    std: float


class Acceptance(Schema):
    """Draws whose tallied coefficient was from a whole number up to the next."""

    drawn: int
    accepted: int


class Provenance(Schema):
    """Which program made the data, and when."""

    program: str
    numpy: str
    python: str
    created: str


class Manifest(Schema):
    """``manifest.json`` of a data folder."""

    format_version: Literal[1] = 1
    system: str
    range: tuple[float, float]
    grid: Count
    seed: int | None
    """None for imported data."""
    columns: tuple[str, ...]
    figures: tuple[str, ...]
    """Figures stored with every sample because of its system, such as psi."""
    shard_samples: Count
    splits: dict[str, SplitRecord]
    scales: Scales
    statistics: dict[str, dict[str, Statistic]]
    """By split, then by name: the coefficients and the figures stored with every sample."""
    options: dict[str, str]
    """How the system was drawn, where it offers a choice."""
    acceptance: dict[str, Acceptance]
    """By whole number, over all splits, where draws can be rejected."""
    provenance: Provenance
    revision: Whole = 0
    """:data:`fmsci.pde.REVISION` of generated samples."""

    @property
    def facts(self) -> DataFacts:
        """What all shards have in common."""
        return DataFacts(
            system=self.system,
            range=self.range,
            grid=self.grid,
            columns=self.columns,
            figures=self.figures,
            tallied=len(self.acceptance),
            seed=self.seed,
            options=self.options,
        )

    @property
    def title(self) -> str:
        """The data set in words: ``poisson (1, 5)``."""
        return self.facts.title

    def contradiction(self, split: str) -> str | None:
        """Say where what is said of a split cannot be, or None: readers find samples by it, and writers name files."""
        if split not in SPLITS:
            return f"{split!r:.24} is no split: there are {', '.join(SPLITS)}"
        if tuple(self.scales.coefficients) != self.columns:
            return "its scales are not those of its columns"
        record = self.splits[split]
        if not record.shards:
            return f"{split}: it names no shards"
        expected = 0
        for index, shard in enumerate(record.shards):
            if shard.first != expected:
                return f"{split}: {shard.file} begins at sample {shard.first} instead of {expected}"
            if shard.file != shard_name(split, index):
                return f"{split}: it names {shard.file!r:.80} where {shard_name(split, index)} should be"
            if shard.count > record.shards[0].count:
                return f"{split}: {shard.file} has more samples than the first shard"
            expected += shard.count
        if expected != record.count:
            return f"{split}: it says {record.count} samples but the shards hold {expected}"
        return None


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a data folder; UserError where there is none, or it is of another format."""
    path = folder / MANIFEST
    if not path.exists():
        inside = sorted(place.parent.name for place in folder.glob(f"*/{MANIFEST}"))
        if inside:
            named = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
            raise UserError(f"{folder} is no data folder but holds some: {named}; give the path of one")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file, not a data folder; give the path of one")
        what = "holds no data" if folder.exists() else "does not exist"
        if (folder / PLAN).exists():
            what = "is not finished: repeat the fmsci generate command"
        raise UserError(f"{folder} is no data folder: {path.name} is missing ({folder.name} {what})")
    try:
        stamp = path.stat()
    except OSError:  # gone in this moment: what reads it says so
        return parse(Manifest, read_json(path), str(path))
    return _read(path, (stamp.st_dev, stamp.st_ino, stamp.st_size, stamp.st_mtime_ns))


@lru_cache(maxsize=32)
def _read(path: Path, stamp: tuple[int, ...]) -> Manifest:
    """Read a manifest once as long as its stamp stays: that of 100,000 shards takes seconds, and each split asks."""
    return parse(Manifest, read_json(path), str(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Publish the manifest; the data folder is complete from then on."""
    unsaid = set() if manifest.revision else {"revision"}
    write_json(folder / MANIFEST, manifest.model_dump(mode="json", exclude=unsaid))
