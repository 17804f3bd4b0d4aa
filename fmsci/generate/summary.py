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
from fmsci.generate.plan import Request, figures
from fmsci.shards.layout import ACCEPTANCE, TENSOR
from fmsci.shards.manifest import Acceptance, Manifest, Provenance, Scales, ShardRecord, SplitRecord, Statistic
from fmsci.shards.reader import read_dataset


def build_manifest(folder: Path, request: Request, records: Iterable[ShardRecord]) -> Manifest:
    """Return the manifest of a folder whose shards are all there, from the small datasets in them."""
    columns = request.equation.columns
    splits, statistics, scales = {}, {}, None
    tally = np.zeros((0, 3), np.int64)
    by_file = sorted(records, key=lambda record: (record.file.partition("/")[0], record.first))
    for split, count in request.counts.items():
        mine = tuple(record for record in by_file if record.file.partition("/")[0] == split)
        splits[split] = SplitRecord(count=count, shards=mine)
        tensor = _whole(folder, mine, TENSOR)
        rows = {name: tensor[:, column] for column, name in enumerate(columns)}
        rows |= {name: _whole(folder, mine, name) for name in figures(request.equation)}
        statistics[split] = {name: _statistic(values) for name, values in rows.items()}
        if request.equation.tally is not None:
            tables = [read_dataset(folder, record, ACCEPTANCE) for record in mine]
            tally = np.concatenate([tally, *tables])
        if split == "train":
            scales = build_scales(rows["source_norm"], {name: rows[name] for name in columns})
    assert scales is not None, "every request has a training split"
    return Manifest(
        system=request.system,
        range=request.range,
        grid=request.grid,
        seed=request.seed,
        columns=columns,
        shard_samples=request.shard_samples,
        splits=splits,
        scales=scales,
        statistics=statistics,
        options=request.options,
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
