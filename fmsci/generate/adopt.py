"""Take in data that another program made: every sample is solved again and must agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmsci.errors import UserError
from fmsci.files import discard, taken
from fmsci.generate.samples import BATCH_BYTES, LARGEST_PAIR_ERROR
from fmsci.generate.summary import build_manifest
from fmsci.pde import System, pair_error
from fmsci.pde.grid import LARGEST_MEAN, sum_of_squares
from fmsci.shards.foreign import SamplesFile, open_samples, read_pieces
from fmsci.shards.layout import MANIFEST, PLAN, SPLITS, DataFacts, check_count, split_name
from fmsci.shards.manifest import Manifest, ShardRecord, write_manifest
from fmsci.shards.virtual import write_virtual
from fmsci.shards.writer import ShardWriter, open_shard

SPLIT_WORDS = {
    **{"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid"},
    **{"test": "test", "testing": "test"},
}
"""The words of a file's name, in letters alone, that say what its split is."""

RANGE_SLACK = 1e-5
"""How far a stored sample may lie outside its range, as a part of the larger end: coefficients are float32."""


def split_of(path: Path) -> str:
    """Return the split that a file's name tells; UserError where it tells none, or two."""
    words = re.findall(r"[^\W\d_]+", path.name.lower())  # "test_interval" is no validation
    found = list(dict.fromkeys(SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS))
    if len(found) > 1:
        raise UserError(f"the name of {path} says {' and '.join(found)}; say which it is with --split")
    if not found:
        raise UserError(f"the name of {path} has none of {', '.join(SPLIT_WORDS)} in it; say which it is with --split")
    return found[0]


def import_files(
    files: Mapping[str, list[Path]],
    system: System,
    output: Path,
    data_range: tuple[float, float] | None = None,
    shard_samples: int = 256,
    tell: Callable[[int], None] = lambda done: None,
) -> Manifest:
    """Write the samples of ``files`` (by split, in their order) as a data folder, and return its manifest.

    A sample must satisfy ||u - solve(f)|| / ||u|| <= 1e-5, lie in ``data_range`` and, where the system does not keep
    the mean, have a source without one. Without ``data_range`` the range is the smallest that holds all samples.
    ``tell`` hears how many samples are done.

    Raises:
        UserError: where a file is not in the paper's layout, files do not belong together, the folder is taken, or a
            sample is not what it must be; it is named, and the folder is left as it was.
    """
    if data_range is not None and not (np.isfinite(data_range).all() and data_range[0] <= data_range[1]):
        raise UserError(
            f"--range is {data_range[0]:g} {data_range[1]:g} but should be two finite numbers, the smaller one first"
        )
    opened = {split: [open_samples(path, solved=True) for path in files[split]] for split in SPLITS if files.get(split)}
    check_count((sum(file.count for file in of_split) for of_split in opened.values()), shard_samples)
    grid = _one_grid([file for of_split in opened.values() for file in of_split], system)
    if (output / MANIFEST).exists() or (output / PLAN).exists():
        raise UserError(f"{output} already holds data; give another output folder")
    held = taken(output)
    if held is not None:
        raise UserError(f"{held}; give another output folder")
    observed = _observe(opened, system) if data_range is None else data_range
    facts = DataFacts(
        system=system.name,
        range=observed,
        grid=grid,
        columns=system.columns,
        figures=tuple(system.figures),
        tallied=0,
        seed=None,
        options={},
    )
    records: list[ShardRecord] = []
    new = not output.exists()
    done = 0

    def tell_more(samples: int) -> None:
        nonlocal done
        done += samples
        tell(done)

    try:
        for split, of_split in opened.items():
            total = sum(file.count for file in of_split)
            for index, first in enumerate(range(0, total, shard_samples)):
                layout = facts.shard(split, index, first, min(shard_samples, total - first))
                with open_shard(output, layout) as shard:
                    _fill(shard, of_split, system, observed, tell_more)
                    records.append(shard.finish())
        manifest = build_manifest(output, facts, shard_samples, records)
        write_virtual(output, manifest)
        write_manifest(output, manifest)
    except BaseException:
        for split in opened:  # the folder held nothing: what is there is of this import
            discard(output / split)
            discard(output / split_name(split))
        if new:
            with suppress(OSError):
                output.rmdir()
        raise
    return manifest


def _one_grid(files: Sequence[SamplesFile], system: System) -> int:
    """Return the grid of all files. UserError where there is none, one is on another, or not of the system."""
    if not files:
        raise UserError("no file to import was given")
    first = files[0]
    for file in files:
        if file.num_columns != len(system.columns):
            raise UserError(
                f"{file.path}: tensor has {file.num_columns} columns but {system.name} has {len(system.columns)}: "
                f"{', '.join(system.columns)}"
            )
        if file.shape[0] != first.shape[0]:
            raise UserError(f"{file.path} is on a grid of {file.shape[0]}, {first.path} on one of {first.shape[0]}")
    return first.shape[0]


def _at_once(file: SamplesFile) -> int:
    return max(1, BATCH_BYTES // (8 * file.shape[0] ** 2))


def _fill(
    shard: ShardWriter,
    files: list[SamplesFile],
    system: System,
    data_range: tuple[float, float],
    tell: Callable[[int], None],
) -> None:
    """Judge the samples of one shard and append them."""
    low, high = data_range
    slack = RANGE_SLACK * max(abs(low), abs(high))
    layout = shard.layout
    for file, first, fields, tensor in read_pieces(files, layout.first, layout.count, _at_once(files[0])):
        error = judge(system, fields, tensor)
        bad = ~(error <= LARGEST_PAIR_ERROR)
        if bad.any():
            at = int(np.argmax(bad))
            raise UserError(
                f"{file.path}: sample {first + at} does not solve {system.name}: "
                f"||u - solve(f)|| / ||u|| is {error[at]:.2g}, above {LARGEST_PAIR_ERROR:g}; is this the right system?"
            )
        exact = fields.astype(np.float64)
        observed = system.observe(tensor.astype(np.float64), exact[:, 0])
        outside = ~((observed >= low - slack) & (observed <= high + slack))
        if outside.any():
            at = int(np.argmax(outside))
            raise UserError(
                f"{file.path}: sample {first + at} has {observed[at]:g} where the range is {low:g} to {high:g}; give a "
                "--range that holds all samples, or none"
            )
        norms = np.array([[sum_of_squares(field) ** 0.5 for field in pair] for pair in exact]) / file.shape[0]
        means = np.abs(exact[:, 0].mean(axis=(1, 2)))
        kept_out = means > LARGEST_MEAN * norms[:, 0]
        if kept_out.any() and not system.keep_mean:
            at = int(np.argmax(kept_out))
            raise UserError(
                f"{file.path}: the source of sample {first + at} has a mean of {means[at] / norms[at, 0]:.2g} of its "
                f"root mean square, but {system.name} has a solution only for sources without one; subtract it"
            )
        rows: dict[str, NDArray[Any]] = {
            "tensor": tensor,
            "residual": np.full(len(fields), np.nan),  # that of a float32 pair says nothing
            "pair_error": error,
            "source_norm": norms[:, 0],
            "solution_norm": norms[:, 1],
            "solution_max": np.abs(exact[:, 1]).max(axis=(1, 2)),
        }
        for name in system.figures:
            rows[name] = observed
        shard.append(fields, rows)
        tell(len(fields))


def judge(system: System, fields: NDArray[np.float32], tensor: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ||u - solve(f)|| / ||u|| (B,) of stored pairs, NaN where the coefficients make no equation."""
    errors = np.full(len(fields), np.nan)
    for at, (pair, row) in enumerate(zip(fields, tensor, strict=True)):
        if np.isfinite(pair).all() and np.isfinite(row).all():
            try:
                errors[at] = pair_error(system, pair[None, 0], pair[None, 1], row[None])[0]
            except ValueError:  # K is not positive definite
                continue
    return errors


def _observe(files: Mapping[str, list[SamplesFile]], system: System) -> tuple[float, float]:
    """Return the smallest and the largest value of the quantity that the system's range is of."""
    low, high = np.inf, -np.inf
    for of_split in files.values():
        total = sum(file.count for file in of_split)
        for _, _, fields, tensor in read_pieces(of_split, 0, total, _at_once(of_split[0])):
            values = system.observe(tensor.astype(np.float64), fields[:, 0].astype(np.float64))
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"the coefficients are not those of {system.name}: their range is {low:g} to {high:g}")
    return low, high
