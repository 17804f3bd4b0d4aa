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
from fmsci.shards.layout import ACCEPTANCE, FIGURES, SPLITS, TENSOR, DataFacts
from fmsci.shards.manifest import Acceptance, Manifest, Provenance, Scales, ShardRecord, SplitRecord, Statistic
from fmsci.shards.reader import read_dataset


def build_manifest(folder: Path, facts: DataFacts, shard_samples: int, records: Iterable[ShardRecord]) -> Manifest:
    """Return the manifest of a folder whose shards are all there, from the small datasets in them.

    The scales are those of the training split; of the first split there is, where imported data have none.
    """
    found = sorted(records, key=lambda record: (SPLITS.index(record.split), record.first))
    splits, statistics, scales = {}, {}, None
    tally = np.zeros((0, 3), np.int64)
    for split in SPLITS:
        mine = tuple(record for record in found if record.split == split)
        if not mine:
            continue
        splits[split] = SplitRecord(count=sum(record.count for record in mine), shards=mine)
        tensor = _whole(folder, mine, TENSOR)
        rows = {name: tensor[:, column] for column, name in enumerate(facts.columns)}
        rows |= {name: _whole(folder, mine, name) for name in (*FIGURES, *facts.figures)}
        statistics[split] = {name: _statistic(values) for name, values in rows.items() if not np.isnan(values).all()}
        if facts.tallied:
            tally = np.concatenate([tally, *(read_dataset(folder, record, ACCEPTANCE) for record in mine)])
        if scales is None:
            scales = build_scales(rows["source_norm"], {name: rows[name] for name in facts.columns})
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
    )


def build_scales(source_norm: NDArray[Any], columns: Mapping[str, NDArray[Any]]) -> Scales:
    """Return the scales of a training split: median ||f||_2 / n, and of each column the median of its non-zero
    sizes."""
    coefficients = {}
    for name, values in columns.items():
        sizes = np.abs(values[values != 0]).astype(np.float64)
        coefficients[name] = float(np.median(sizes)) if sizes.size else 1.0
    return Scales(source=float(np.median(source_norm)), coefficients=coefficients)


def _acceptance(tally: NDArray[np.int64]) -> dict[str, Acceptance]:
    """Return the sum of rows (value, drawn, accepted) by value."""
    of_value = {int(value): tally[tally[:, 0] == value].sum(axis=0) for value in np.unique(tally[:, 0])}
    return {str(v): Acceptance(drawn=int(row[1]), accepted=int(row[2])) for v, row in of_value.items()}


def _statistic(values: NDArray[Any]) -> Statistic:
    exact = values.astype(np.float64)
    exact = exact[~np.isnan(exact)]  # pairs that were not judged
    return Statistic(min=float(exact.min()), mean=float(exact.mean()), max=float(exact.max()), std=float(exact.std()))


def _whole(folder: Path, records: tuple[ShardRecord, ...], name: str) -> NDArray[Any]:
    return np.concatenate([read_dataset(folder, record, name) for record in records])
