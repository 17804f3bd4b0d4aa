"""From finished shards to the manifest: scales and statistics of every split."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
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


def build_manifest(folder: Path, facts: DataFacts, shard_samples: int, records: Iterable[ShardRecord]) -> Manifest:
    """Return the manifest of a folder whose shards are all there, from the small datasets in them.

    The scales are those of the training split; of the first split there is, where imported data have none.
    """
    found = sorted(records, key=lambda record: (SPLITS.index(record.split), record.first))
    splits, statistics, scales = {}, {}, None
    tally = np.zeros((facts.tallied, 3), np.int64)
    for split in dict.fromkeys(record.split for record in found):
        mine = tuple(record for record in found if record.split == split)
        splits[split] = SplitRecord(count=sum(record.count for record in mine), shards=mine)
        spreads: dict[str, Spread] = {}
        kept: dict[str, list[NDArray[Any]]] = {}
        for record in mine:  # one shard at a time: a rank's memory does not depend on the number of samples
            rows = _rows(folder, record, facts)
            if facts.tallied:
                table = rows.pop(ACCEPTANCE)
                tally[:, 0] = table[:, 0]
                tally[:, 1:] += table[:, 1:]
            for name, values in rows.items():
                spreads.setdefault(name, Spread()).add(values)
                if scales is None and name in ("source_norm", *facts.columns):
                    kept.setdefault(name, []).append(values)
        statistics[split] = {name: spread.statistic() for name, spread in spreads.items() if spread.count}
        if scales is None:
            whole = {name: np.concatenate(parts) for name, parts in kept.items()}
            scales = build_scales(whole["source_norm"], {name: whole[name] for name in facts.columns})
    assert scales is not None, "a data folder has at least one split"
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

    def add(self, values: NDArray[Any]) -> None:
        """Take in some numbers: means and sums of squares of two sets merge exactly (Chan, Golub, LeVeque 1979)."""
        exact = values.astype(np.float64)
        exact = exact[~np.isnan(exact)]
        if exact.size == 0:
            return
        total = self.count + exact.size
        mean = float(exact.mean())
        gap = mean - self._mean
        self._squares += float(((exact - mean) ** 2).sum()) + gap**2 * self.count * exact.size / total
        self._mean += gap * exact.size / total
        self._min, self._max = min(self._min, float(exact.min())), max(self._max, float(exact.max()))
        self.count = total

    def statistic(self) -> Statistic:
        """Return the figures."""
        return Statistic(min=self._min, mean=self._mean, max=self._max, std=(self._squares / self.count) ** 0.5)


def _rows(folder: Path, record: ShardRecord, facts: DataFacts) -> dict[str, NDArray[Any]]:
    """Return the figures and coefficients of a shard's samples by name, and its table of accepted draws."""
    names = [TENSOR, *FIGURES, *facts.figures, *([ACCEPTANCE] if facts.tallied else [])]
    rows = read_datasets(folder, record, names)
    tensor = rows.pop(TENSOR)
    return {name: tensor[:, at].copy() for at, name in enumerate(facts.columns)} | rows
