"""Make a data folder with any number of ranks: each makes whole shards, rank 0 writes plan and manifest."""

from __future__ import annotations

import traceback
from pathlib import Path

from fmsci.config import GenerateSettings
from fmsci.errors import EXIT_MISTAKE, UserError
from fmsci.files import ASIDE_PREFIX
from fmsci.generate.draws import Stream
from fmsci.generate.plan import Request, Task, agree_with_plan, build_layout, build_request, build_tasks, share
from fmsci.generate.ranks import Ranks, build_ranks
from fmsci.generate.samples import make_samples
from fmsci.generate.summary import build_manifest
from fmsci.shards.check import inspect_shard
from fmsci.shards.layout import MANIFEST, SPLITS
from fmsci.shards.manifest import Manifest, ShardRecord, read_manifest, write_manifest
from fmsci.shards.writer import open_shard
from fmsci.terminal import Progress
from fmsci.world import World


def generate(settings: GenerateSettings, world: World) -> Manifest:
    """Make the data folder that the settings ask for, and return its manifest; all ranks call it.

    What an earlier start finished is kept: shards that are whole are checked and skipped, the others made anew. The
    data are the same for any number of ranks.

    Raises:
        UserError: where the request makes no sense, the folder holds another one, or the disk is full.
        WrongSampleError: where a sample does not solve its equation.
    """
    request = build_request(settings)
    ranks = build_ranks(world)
    try:
        return _run(settings.output, request, ranks)
    except Exception as error:
        if ranks.size > 1:
            mistake = isinstance(error, UserError)
            ranks.abort(str(error) if mistake else traceback.format_exc(), EXIT_MISTAKE if mistake else 1)
        raise


def _run(folder: Path, request: Request, ranks: Ranks) -> Manifest:
    if ranks.rank == 0:
        agree_with_plan(folder, request)
        _remove_unfinished(folder)
    ranks.share(None)  # nobody writes before the plan is there and the leftovers are gone
    mine = share(build_tasks(request), ranks.rank, ranks.size)
    records = _make_shards(folder, request, mine, ranks)
    collected = ranks.collect(records)
    if collected is not None:
        everything = [record for of_rank in collected for record in of_rank]
        manifest = build_manifest(folder, request, everything)
        if not _same_data(folder, manifest):
            write_manifest(folder, manifest)
    ranks.share(None)
    return read_manifest(folder)


def _make_shards(folder: Path, request: Request, mine: list[Task], ranks: Ranks) -> list[ShardRecord]:
    """Return the records of this rank's shards, making those that are not there or not whole."""
    records: list[ShardRecord] = []
    missing: list[Task] = []
    for task in mine:
        found = inspect_shard(folder, build_layout(request, task))
        if isinstance(found, ShardRecord):
            records.append(found)
        else:
            missing.append(task)
    to_make = ranks.collect((sum(record.count for record in records), sum(task.count for task in missing)))
    kept, total = (sum(part) for part in zip(*(to_make or [(0, 0)]), strict=True))
    title = f"{request.system} ({request.range[0]:g}, {request.range[1]:g})"
    with Progress(title, kept + total, "samples", enabled=ranks.rank == 0 and total > 0, done=kept) as bar:
        done = 0
        for task in missing:
            with open_shard(folder, build_layout(request, task)) as shard:
                for samples in make_samples(
                    request.equation, _stream(request, task), request.grid, task.first, task.count
                ):
                    shard.append(samples.fields, samples.rows)
                    done += len(samples.fields)
                    everywhere, _ = ranks.report(done, False)
                    bar.update(kept + everywhere)
                records.append(shard.finish())
        ranks.settle(done, False, lambda everywhere: bar.update(kept + everywhere))
    return records


def _stream(request: Request, task: Task) -> Stream:
    return Stream(request.seed, request.system, request.range, task.split)


def _remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for place in (folder, *(folder / split for split in SPLITS)):
        for leftover in place.glob(f"{ASIDE_PREFIX}*"):
            leftover.unlink(missing_ok=True)


def _same_data(folder: Path, manifest: Manifest) -> bool:
    """Tell whether the folder's manifest already says this; a finished data set is not touched again."""
    if not (folder / MANIFEST).exists():
        return False
    earlier = read_manifest(folder)
    return earlier.model_copy(update={"provenance": manifest.provenance}) == manifest
