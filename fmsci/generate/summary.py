"""From finished shards to the manifest: scales and statistics of every split."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmsci import __version__
from fmsci.errors import UserError
from fmsci.pde import REVISION
from fmsci.shards.layout import ACCEPTANCE, FIGURES, SPLITS, TENSOR, DataFacts
from fmsci.shards.manifest import Acceptance, Manifest, Provenance, Scales, ShardRecord, SplitRecord, Statistic
from fmsci.shards.reader import read_datasets


@dataclass(frozen=True)
class ShardSummary:
    """What the manifest needs of one shard: whoever reads it, the manifest is the same."""

    record: ShardRecord
    spreads: dict[str, Spread]
    kept: dict[str, NDArray[Any]]
    """The norms of the sources and the coefficients, of which the scales are medians."""
    tally: NDArray[np.int64] | None


def summarize(folder: Path, facts: DataFacts, record: ShardRecord, scales: bool) -> ShardSummary:
    """Return the summary of a shard, from the small datasets in it; ``scales``: whether its split gives the scales."""
    rows = _rows(folder, record, facts)
    tally = rows.pop(ACCEPTANCE) if facts.tallied else None
    kept = {name: values for name, values in rows.items() if scales and name in ("source_norm", *facts.columns)}
    return ShardSummary(record, {name: Spread.of(values) for name, values in rows.items()}, kept, tally)


def build_manifest(folder: Path, facts: DataFacts, shard_samples: int, records: Iterable[ShardRecord]) -> Manifest:
    """Return the manifest of a folder whose shards are all there, from the small datasets in them.

    The scales are those of the training split; of the first split there is, where imported data have none.
    """
    found = _in_order(records)
    # One shard at a time: a process's memory does not depend on the number of samples.
    each = (summarize(folder, facts, record, record.split == found[0].split) for record in found)
    return merge(facts, shard_samples, each)


def merge(facts: DataFacts, shard_samples: int, summaries: Iterable[ShardSummary]) -> Manifest:
    """Return the manifest of shards that are summarized, split after split, each from its first sample on."""
    records: dict[str, list[ShardRecord]] = {}
    spreads: dict[str, dict[str, Spread]] = {}
    kept: dict[str, list[NDArray[Any]]] = {}
    tally = np.zeros((facts.tallied, 3), np.int64)
    for one in summaries:
        split = one.record.split
        records.setdefault(split, []).append(one.record)
        if one.tally is not None:
            tally[:, 0] = one.tally[:, 0]
            tally[:, 1:] += one.tally[:, 1:]
        for name, spread in one.spreads.items():
            spreads.setdefault(split, {}).setdefault(name, Spread()).merge(spread)
        for name, values in one.kept.items():
            kept.setdefault(name, []).append(values)
    splits = {
        split: SplitRecord(count=sum(record.count for record in mine), shards=tuple(mine))
        for split, mine in records.items()
    }
    statistics = {
        split: {name: spread.statistic() for name, spread in of_split.items() if spread.count}
        for split, of_split in spreads.items()
    }
    whole = {name: np.concatenate(parts) for name, parts in kept.items()}
    scales = build_scales(whole["source_norm"], {name: whole[name] for name in facts.columns})
    return Manifest(
        system=facts.system,
        range=facts.range,
        grid=facts.grid,
        seed=facts.seed,
        columns=facts.columns,
        figures=facts.figures,
        shard_samples=shard_samples,
        splits=splits,
        scales=scales,
        statistics=statistics,
        options=dict(facts.options),
        acceptance=_acceptance(tally),
        provenance=Provenance(
            program=f"fmsci {__version__}",
            numpy=np.__version__,
            python=platform.python_version(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        ),
        revision=0 if facts.seed is None else REVISION,
    )


def build_scales(source_norm: NDArray[Any], columns: Mapping[str, NDArray[Any]]) -> Scales:
    """Return the scales of a training split: median ||f||_2 / n, and of each column the median of its non-zero
    sizes."""
    coefficients = {}
    for name, values in columns.items():
        sizes = np.abs(values[values != 0]).astype(np.float64)
        coefficients[name] = float(np.median(sizes)) if sizes.size else 1.0
    source = float(np.median(source_norm))
    if source == 0:
        raise UserError("half of the sources or more are zero everywhere: they give no scale; leave them out")
    return Scales(source=source, coefficients=coefficients)


def _acceptance(tally: NDArray[np.int64]) -> dict[str, Acceptance]:
    """Return the rows (value, drawn, accepted) by value."""
    return {str(value): Acceptance(drawn=drawn, accepted=accepted) for value, drawn, accepted in tally.tolist()}


class Spread:
    """Smallest, mean, largest and standard deviation of numbers that come piece by piece; NaN is left out."""

    def __init__(self) -> None:
        """Start from nothing."""
        self.count, self._mean, self._squares = 0, 0.0, 0.0
        self._min, self._max = np.inf, -np.inf

    @classmethod
    def of(cls, values: NDArray[Any]) -> Spread:
        """Return that of some numbers."""
        spread, exact = cls(), values.astype(np.float64)
        exact = exact[~np.isnan(exact)]
        if exact.size:
            spread.count, spread._mean = exact.size, float(exact.mean())
            spread._squares = float(((exact - spread._mean) ** 2).sum())
            spread._min, spread._max = float(exact.min()), float(exact.max())
        return spread

    def merge(self, other: Spread) -> None:
        """Take in other numbers: means and sums of squares of two sets merge exactly (Chan, Golub, LeVeque 1979)."""
        if other.count == 0:
            return
        total = self.count + other.count
        gap = other._mean - self._mean
        self._squares += other._squares + gap**2 * self.count * other.count / total
        self._mean += gap * other.count / total
        self._min, self._max = min(self._min, other._min), max(self._max, other._max)
        self.count = total

    def statistic(self) -> Statistic:
        """Return the figures."""
        return Statistic(min=self._min, mean=self._mean, max=self._max, std=(self._squares / self.count) ** 0.5)


def _in_order(records: Iterable[ShardRecord]) -> list[ShardRecord]:
    return sorted(records, key=lambda record: (SPLITS.index(record.split), record.first))


def in_order(summaries: Iterable[ShardSummary]) -> list[ShardSummary]:
    """Return summaries as :func:`merge` takes them."""
    by_file = {one.record.file: one for one in summaries}
    return [by_file[record.file] for record in _in_order(one.record for one in by_file.values())]


def _rows(folder: Path, record: ShardRecord, facts: DataFacts) -> dict[str, NDArray[Any]]:
    """Return the figures and coefficients of a shard's samples by name, and its table of accepted draws."""
    names = [TENSOR, *FIGURES, *facts.figures, *([ACCEPTANCE] if facts.tallied else [])]
    rows = read_datasets(folder, record, names)
    tensor = rows.pop(TENSOR)
    return {name: tensor[:, at].copy() for at, name in enumerate(facts.columns)} | rows
