"""Make a data folder with any number of ranks: each makes whole shards, rank 0 writes plan and manifest."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from fmsci.config import GenerateSettings
from fmsci.errors import EXIT_FAILURE, EXIT_MISTAKE, Failure, Interrupted, UserError
from fmsci.files import ASIDE_PREFIX
from fmsci.generate.draws import Stream
from fmsci.generate.place import check_place
from fmsci.generate.plan import Request, Task, agree_with_plan, build_request, build_tasks, share
from fmsci.generate.ranks import Ranks, build_ranks
from fmsci.generate.samples import SampleMaker
from fmsci.generate.summary import in_order, merge, summarize
from fmsci.generate.tally import Tally
from fmsci.locks import LOCK, lock
from fmsci.shards.check import inspect_shard
from fmsci.shards.layout import ACCEPTANCE, SPLITS, TENSOR
from fmsci.shards.manifest import Manifest, ShardRecord, read_manifest, write_manifest
from fmsci.shards.virtual import virtual_is_right, write_virtual
from fmsci.shards.writer import ShardWriter
from fmsci.terminal import Progress, warn
from fmsci.world import StopSignals, World, stale_lock_s


def generate(settings: GenerateSettings, world: World) -> Manifest:
    """Make the data folder that the settings ask for, and return its manifest; all ranks call it.

    What an earlier start finished is kept: shards that are whole are checked and skipped, the others made anew. The
    data are the same for any number of ranks.

    Raises:
        UserError: where the request makes no sense, the folder holds another one, another process works in it, or
            the disk is full.
        Interrupted: on SIGTERM, SIGUSR2 or SIGINT in any rank, on all ranks, with the shards under work finished.
        WrongSampleError: where a sample does not solve its equation.
    """
    ranks = build_ranks(world)
    with StopSignals() as signals, ExitStack() as held:
        try:
            return _run(settings.output, build_request(settings), ranks, signals, held)
        except Interrupted:
            raise
        except Exception as error:
            sentence = str(error) if isinstance(error, (UserError, Failure)) else traceback.format_exc()
            ranks.abort(sentence, EXIT_MISTAKE if isinstance(error, UserError) else EXIT_FAILURE)
            raise


def _run(folder: Path, request: Request, ranks: Ranks, signals: StopSignals, held: ExitStack) -> Manifest:
    if ranks.rank == 0:
        check_place(folder, request)
        if not folder.exists() or os.access(folder, os.W_OK):  # else it is only read: nobody need be kept away
            refusal = f"another process is making data in {folder}; choose another output="
            held.enter_context(
                lock(folder / LOCK, refusal, stale_lock_s(), lambda holder: warn(f"{folder}: waiting for {holder}"))
            )
        agree_with_plan(folder, request)
        _remove_unfinished(folder)
    ranks.share(None)  # nobody writes before the plan is there and the leftovers are gone
    tasks = build_tasks(request)
    mine = share(tasks, ranks.rank, ranks.size)
    records, missing, stop = _verify_shards(folder, request, mine, ranks, signals)
    if not stop:
        records += _make_shards(folder, request, missing, sum(one.count for one in records), ranks, signals)
    finished = ranks.share(sum(ranks.collect(len(records)) or []))
    if finished < len(tasks):
        raise Interrupted(f"{finished:,} of {len(tasks):,} shards are finished and verified in {folder}")
    # Each rank reads its own: rank 0 would take minutes for a hundred thousand, and all others wait.
    collected = ranks.collect([summarize(folder, request.facts, one, one.split == SPLITS[0]) for one in records])
    if collected is not None:
        everything = in_order(summary for of_rank in collected for summary in of_rank)
        _publish(folder, merge(request.facts, request.shard_samples, everything))
    ranks.share(None)  # the manifest is there
    return read_manifest(folder)


def _verify_shards(
    folder: Path, request: Request, mine: list[Task], ranks: Ranks, signals: StopSignals
) -> tuple[list[ShardRecord], list[Task], bool]:
    """Return the records of this rank's shards that are there and whole, the tasks of the others, and whether any rank
    was asked to stop."""
    there = [task for task in mine if (folder / request.layout(task).file).exists()]
    counts = ranks.collect(sum(task.count for task in there))
    total = sum(counts or [0])
    found: dict[Task, ShardRecord] = {}
    with Progress(f"verify {request.facts.title}", total, "samples", enabled=ranks.rank == 0 and total > 0) as bar:
        done = 0
        for task in there:
            everywhere, stop = ranks.report(done, signals.asked)
            bar.update(everywhere)
            if stop:
                break
            record = inspect_shard(folder, request.layout(task))
            if isinstance(record, ShardRecord):
                found[task] = record
                done += task.count
        stop = ranks.settle(done, signals.asked, bar.update)
    return list(found.values()), [task for task in mine if task not in found], stop


def _make_shards(
    folder: Path, request: Request, missing: list[Task], kept: int, ranks: Ranks, signals: StopSignals
) -> list[ShardRecord]:
    """Make shards and return their records; ``kept`` samples of this rank are there already.

    Asked to stop, it returns those that are finished by then.
    """
    records: list[ShardRecord] = []
    counts = ranks.collect((kept, sum(task.count for task in missing)))
    kept, total = (sum(part) for part in zip(*(counts or [(0, 0)]), strict=True))
    with (
        ThreadPoolExecutor(1) as disk,
        Progress(request.facts.title, kept + total, "samples", enabled=ranks.rank == 0 and total > 0, done=kept) as bar,
    ):
        done = 0
        publishing: Future[None] | None = None
        for task in missing:
            if ranks.report(done, signals.asked)[1]:
                break
            before = done

            def tell(samples: int, before: int = before) -> None:
                bar.update(kept + ranks.report(before + samples, signals.asked)[0])

            record, shard = _make_shard(folder, request, task, tell)
            try:
                if publishing is not None:
                    publishing.result()
            except BaseException as error:
                shard.discard(error)
                raise
            publishing = disk.submit(shard.publish)  # while the disk takes this one, the next is computed
            records.append(record)
            done += task.count
        if publishing is not None:
            publishing.result()
        ranks.settle(done, signals.asked, lambda everywhere: bar.update(kept + everywhere))
    return records


def _make_shard(
    folder: Path, request: Request, task: Task, tell: Callable[[int], None]
) -> tuple[ShardRecord, ShardWriter]:
    """Make one shard, which is then to be published; ``tell`` hears how many of its samples are done."""
    maker = SampleMaker(
        request.equation, Stream(request.seed, request.system, request.range, task.split), request.grid, request.options
    )
    tally = Tally(*request.range) if request.equation.tally is not None else None
    shard = ShardWriter(folder, request.layout(task))
    try:
        for samples in maker.make(task.first, task.count):
            shard.append(samples.fields, samples.rows)
            if tally is not None:
                accepted = samples.rows[TENSOR][:, request.equation.tallied_column]
                tally.add(np.concatenate(samples.tallied), accepted)
            tell(shard.done)
        return shard.finish({} if tally is None else {ACCEPTANCE: tally.table}), shard
    except BaseException as error:
        shard.discard(error)
        raise


def _publish(folder: Path, manifest: Manifest) -> None:
    """Write the split files and then the manifest, unless they say all this already."""
    with suppress(UserError):  # there is none, or it is damaged: it is written anew
        earlier = read_manifest(folder)
        same = earlier.model_copy(update={"provenance": manifest.provenance}) == manifest
        if same and all(virtual_is_right(folder, manifest, split) for split in manifest.splits):
            return
    write_virtual(folder, manifest)
    write_manifest(folder, manifest)


def _remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for place in (folder, *(folder / split for split in SPLITS)):
        for leftover in place.glob(f"{ASIDE_PREFIX}*"):
            leftover.unlink(missing_ok=True)
