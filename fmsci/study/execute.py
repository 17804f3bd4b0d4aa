"""Make what is missing of a study on this machine: each job a process of its own, a few at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from fmsci.config import StudySettings, TrainSettings, load_settings
from fmsci.errors import Interrupted, UserError
from fmsci.files import discard, read_json
from fmsci.shards.layout import MANIFEST
from fmsci.study.board import Board
from fmsci.study.identity import model_hash
from fmsci.study.jobs import Job, Run
from fmsci.study.plan import Plan, plan
from fmsci.study.pool import Pool
from fmsci.terminal import Progress, say
from fmsci.train.dry_run import dry_run
from fmsci.train.recorded import check_recorded

POLL_S = 0.1


def check(planned: Plan, jobs: Sequence[Job]) -> None:
    """Raise UserError for every mistake that can be told before one of these jobs starts.

    A run whose data or initial model are still to be made is looked at when it starts.
    """
    for source in planned.settings.models.values():
        if source.folder is not None:
            model_hash(source.folder)
    for folder in {path.parent for job in jobs for path in job.needs if path.name == MANIFEST}:
        planned.folders.check(folder)
    for job in jobs:
        if isinstance(job, Run) and job.ready:
            wanted = load_settings(TrainSettings, Path(job.words[1]), job.words[2:-1])
            check_recorded(wanted)
            dry_run(wanted, world_size=1)


def execute(settings: StudySettings, stage: str | None = None) -> None:
    """Make every result that is missing, ``workers`` at a time; finished ones are never repeated.

    With ``stage`` only the jobs of that one. Raises UserError where settings are wrong or a job failed (with the place
    of its log), Interrupted where it was asked to stop: the running ones then save first.
    """
    board = Board(plan(settings), stage)
    check(board.planned, board.waiting)
    if not board.waiting:
        say(f"all {board.count} jobs of {settings.run} are finished already")
        return
    pool = Pool(settings)
    with pool, Progress(settings.run.name, board.total, "GFLOP of training", done=board.done()) as progress:
        while True:
            running = {job.name for job in pool.jobs}
            startable = [job for job in board.waiting if job.ready and job.name not in running]
            while startable and pool.has_room:
                pool.start(startable.pop(0), at_once=min(settings.workers, len(pool.jobs) + len(startable) + 1))
            if not pool.jobs:
                break
            time.sleep(POLL_S)
            ended = pool.ended()
            for job in ended:
                _tell(job)
            if ended:
                board.look()
            progress.update(board.done(pool.jobs), ", ".join(job.name for job in pool.jobs))
    if pool.stopping:
        raise Interrupted(f"{board.finished} of {board.count} jobs are finished, what was running is saved")
    if board.waiting:
        blocked = board.waiting[0]
        missing = next(path for path in blocked.needs if not path.exists())
        raise UserError(f"{blocked.name} needs {missing}, which is not made by this; run the whole study")


def _tell(job: Job) -> None:
    if not isinstance(job, Run):
        say(f"finished {job.name}")
    elif job.diverged:
        say(f"diverged: {job.name}")
    else:
        say(f"finished {job.name}: test error {float(read_json(job.evaluation)['rel_l2']):.4f}")
        if job.arm != "pretrain":
            discard(job.folder / "checkpoints")  # three times the model, and nothing continues from it
