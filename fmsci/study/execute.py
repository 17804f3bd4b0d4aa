"""Make what is missing of one or several studies on this machine, a few jobs at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import islice
from pathlib import Path

from fmsci.config import StudySettings, TrainSettings, load_settings
from fmsci.errors import Interrupted, UserError
from fmsci.evaluation import read_error
from fmsci.locks import LOCK, lock
from fmsci.shards.layout import MANIFEST
from fmsci.study.board import Board, valid_errors
from fmsci.study.jobs import Job, Run
from fmsci.study.models import HOW_TO_MAKE
from fmsci.study.plan import Plan, plan
from fmsci.study.pool import Pool
from fmsci.terminal import Progress, say
from fmsci.train.dry_run import dry_run
from fmsci.train.origin import model_hash
from fmsci.train.recorded import check_recorded

POLL_S = 0.1
TELL_S = 1.0
"""Between two looks at how far the running jobs are: it is read from their files."""

MOST_FAILED = 3
"""After so many jobs that failed no other starts: they would fail too."""


def check(planned: Plan, jobs: Sequence[Job]) -> None:
    """Raise UserError for every mistake that can be told before one of these jobs starts.

    A run whose data or initial model are still to be made is looked at when it starts.
    """
    for source in planned.settings.models.values():
        if source.folder is not None:
            model_hash(source.folder, HOW_TO_MAKE)
    for folder in {path.parent for job in jobs for path in job.needs if path.name == MANIFEST}:
        planned.folders.check(folder)
    for job in jobs:
        if isinstance(job, Run) and job.ready:
            wanted = load_settings(TrainSettings, Path(job.words[1]), job.words[2:-1])
            check_recorded(wanted)
            dry_run(wanted, world_size=1)


def execute(studies: Sequence[StudySettings], stage: str | None = None) -> None:
    """Make every result that is missing, ``workers`` (of the first study) at a time; finished ones are never repeated.

    Jobs of the studies that are named first start first. With ``stage`` only the jobs of that one. Raises UserError
    where settings are wrong or, once the others are done, a job failed (with the place of its log) or one diverged at
    every learning rate; Interrupted where it was asked to stop: the running ones then save first.
    """
    first, names = studies[0], ", ".join(str(settings.run) for settings in studies)
    board = Board([plan(settings) for settings in studies], stage)
    for planned in board.plans:
        mine = {job.makes for job in planned.jobs(valid_errors(planned))}
        check(planned, [job for job in board.waiting if job.makes in mine])
    if not board.waiting and not board.hopeless:
        say(f"all {board.count} jobs of {names} are finished already")
        return
    with ExitStack() as held:
        for folder in sorted({settings.runs_folder for settings in studies}):
            held.enter_context(lock(folder / LOCK, f"another process is making runs in {folder}"))
        pool = held.enter_context(Pool(first))
        title = ", ".join(settings.run.name for settings in studies)
        progress = held.enter_context(Progress(title, board.total, "the training", done=board.done(), share=True))
        finished = f"{board.finished} of {board.count} jobs"
        told = -TELL_S
        while True:
            running = {job.makes for job in pool.jobs}
            out = running | pool.failed.keys()
            startable = []
            if pool.has_room and len(pool.failed) < MOST_FAILED:
                startable = ready([job for job in board.waiting if job.makes not in out], first.workers)
            while startable and pool.has_room:
                pool.start(startable.pop(0), at_once=min(first.workers, len(pool.jobs) + len(startable) + 1))
            if not pool.jobs:
                break
            time.sleep(POLL_S)
            ended = pool.ended()
            for job in ended:
                _tell(job)
            if ended:
                board.look(ended)
                progress.total = board.total  # less where a group turned out to diverge at every rate
                finished = f"{board.finished} of {board.count} jobs"
            if ended or time.monotonic() - told >= TELL_S:
                told = time.monotonic()
                progress.update(board.done(pool.jobs), ", ".join([finished, *(job.name for job in pool.jobs)]))
    if pool.failed:
        raise UserError(_failures([*pool.failed.values(), *board.hopeless]))
    if pool.stopping:
        raise Interrupted(f"{board.finished} of {board.count} jobs are finished, what was running is saved")
    if board.waiting:
        blocked = board.waiting[0]
        missing = next(path for path in blocked.needs if not path.exists())
        raise UserError(f"{blocked.name} needs {missing}, which is not made by this; run the whole study")
    if board.hopeless:
        raise UserError(_failures(board.hopeless))


def ready(jobs: Iterable[Job], most: int) -> list[Job]:
    """Return the first jobs that can start, so many at most. What many of them need is looked for once."""
    there = cache(Path.exists)
    return list(islice((job for job in jobs if all(map(there, job.needs))), most))


def _failures(sentences: Sequence[str]) -> str:
    more = f"; {len(sentences) - 1} more failed" if len(sentences) > 1 else ""
    return f"the run {sentences[0]}{more}"


def _tell(job: Job) -> None:
    if not isinstance(job, Run):
        say(f"finished {job.name}")
    elif job.diverged:
        say(f"diverged: {job.name}")
    else:
        say(f"finished {job.name}: test error {read_error(job.evaluation):.4f}")
