"""Make the missing runs of a study on this machine: each a process of its own, a few at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from fmsci.config import StudySettings, TrainSettings, load_settings
from fmsci.errors import EXIT_REQUEUE, Interrupted, UserError
from fmsci.files import last_entries, read_json
from fmsci.study.plan import PlannedRun, plan
from fmsci.terminal import Progress, say
from fmsci.train.dry_run import dry_run
from fmsci.train.recorded import check_recorded
from fmsci.world import child_environment, end_with_parent, num_cores

POLL_S = 0.1


def finished(run: PlannedRun) -> bool:
    """Tell whether a run has its result and its measured test error."""
    return (run.folder / "result.json").exists() and run.evaluation.exists()


def check_runs(settings: StudySettings) -> tuple[PlannedRun, ...]:
    """Return the planned runs. Raises UserError for every mistake that can be told before one of them starts.

    One of them: a run folder that was made with other settings than the study has now.
    """
    if not (settings.pretrained / "config.json").exists():
        raise UserError(f"there is no pretrained model in {settings.pretrained}; make it first with fmsci train")
    runs = plan(settings)
    for run in runs:
        wanted = load_settings(TrainSettings, settings.train, run.overrides)
        check_recorded(wanted)
        dry_run(wanted, world_size=1)
    return runs


def test_error(run: PlannedRun) -> float:
    """Return the test error that a finished run measured."""
    return float(read_json(run.evaluation)["rel_l2"])


def steps_done(folder: Path) -> int:
    """Return the last step that a run has written to its metrics; 0 where there is none yet."""
    entries = last_entries(folder / "metrics.jsonl", num_bytes=4096)
    return int(entries[-1]["step"]) if entries else 0


def execute(settings: StudySettings) -> None:
    """Make every run that is missing, ``workers`` at a time; finished ones are never repeated.

    Raises UserError where a run's settings are wrong or a run failed (with the place of its log), Interrupted where
    it was asked to stop: the running ones then save first.
    """
    runs = check_runs(settings)
    waiting = [run for run in runs if not finished(run)]
    done = sum(run.steps for run in runs if run not in waiting)
    if not waiting:
        say(f"all {len(runs)} runs of {settings.run} are finished already")
        return
    pool = _Pool(settings)
    with pool, Progress(settings.run.name, sum(run.steps for run in runs), "steps of all runs", done=done) as progress:
        while waiting or pool.running:
            while waiting and len(pool.running) < settings.workers and not pool.stopping:
                pool.start(waiting.pop(0))
            for run in pool.ended():
                done += run.steps
                say(f"finished {run.folder.name}: test error {test_error(run):.4f}")
            under_way = sum(steps_done(run.folder) for run, _ in pool.running)
            progress.update(done + under_way, ", ".join(run.folder.name for run, _ in pool.running))
            if pool.stopping and not pool.running:
                raise Interrupted(
                    f"{sum(map(finished, runs))} of {len(runs)} runs are finished, what was running is saved"
                )
            time.sleep(POLL_S)


class _Pool:
    """The running processes; a signal to stop is passed on to them."""

    def __init__(self, settings: StudySettings) -> None:
        self.settings = settings
        self.running: list[tuple[PlannedRun, subprocess.Popen[bytes]]] = []
        self.stopping = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Pool:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
            self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        for _, process in self.running:
            process.terminate()
            process.wait()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        for _, process in self.running:
            process.terminate()

    def start(self, run: PlannedRun) -> None:
        """Start a run with its share of the cores; what it prints goes to ``RUN/log.txt``."""
        run.folder.mkdir(parents=True, exist_ok=True)
        threads = max(1, num_cores() // self.settings.workers)
        command = [sys.executable, "-m", "fmsci", "train", str(self.settings.train), *run.overrides, "--test"]
        command.append(f"engine.threads={threads}")
        with _log(run).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment(OMP_NUM_THREADS=str(threads)),
                start_new_session=True,  # Ctrl-C reaches it once, through us
                preexec_fn=end_with_parent,  # and if we are killed outright, it is asked to save and stop
            )
        self.running.append((run, process))
        if self.stopping:  # asked in this very moment
            process.terminate()

    def ended(self) -> list[PlannedRun]:
        """Return the runs that ended well since the last look; UserError for one that failed."""
        ended = [(run, process) for run, process in self.running if process.poll() is not None]
        self.running = [pair for pair in self.running if pair not in ended]
        for failed, process in ended:
            if process.returncode == EXIT_REQUEUE:  # it was asked to stop before we were
                self.stopping = True
            elif process.returncode != 0 and not self.stopping:
                raise UserError(f"the run {failed.folder.name} failed: {_last_line(_log(failed))} (see {_log(failed)})")
        return [run for run, _ in ended if finished(run)]


def _log(run: PlannedRun) -> Path:
    return run.folder / "log.txt"


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    told = [line.removeprefix("fmsci: ") for line in lines if line.startswith("fmsci: ")]
    return (told or lines or ["it printed nothing"])[-1]
