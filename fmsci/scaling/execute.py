"""Measure what is missing on this machine: one point at a time, each as many processes as it has ranks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from fmsci.config import ScalingSettings
from fmsci.engine.device import num_devices
from fmsci.errors import UserError
from fmsci.files import read_json
from fmsci.locks import LOCK, lock
from fmsci.scaling.measured import measured_from
from fmsci.scaling.points import Point, missing, plan, result_path
from fmsci.terminal import Progress, say, warnings_in
from fmsci.world import child_environment, end_with_parent, free_port, num_cores

POLL_S = 0.05
GRACE_S = 10.0
"""How long the other ranks may go on when one has failed: they say who is lost."""


def execute(settings: ScalingSettings, config: Path, overrides: Sequence[str], ranks: int | None) -> None:
    """Measure every missing point (on so many ``ranks``, or any number) for which this machine has cores or GPUs.

    Finished ones are never repeated. One at a time: two would disturb each other. Raises UserError where a point
    failed, with the place of its log.
    """
    points = plan(settings)
    places = num_devices() or num_cores()
    todo = missing(settings, ranks)
    here = [number for number in todo if points[number].world_size <= places]
    if len(here) < len(todo):
        what = "GPUs" if num_devices() else "cores"
        say(f"{len(todo) - len(here)} points need more than the {places} {what} of this machine: fmsci scaling submit")
    if not here:
        say(f"{len(points) - len(todo)} of {len(points)} points of {settings.run} are measured; nothing to do here")
        return
    most = max(point.world_size for point in points if point.world_size <= places)
    with ExitStack() as held:
        held.enter_context(lock(settings.run / LOCK, f"another process is measuring in {settings.run}"))
        progress = held.enter_context(Progress(settings.run.name, len(here), "points"))
        for done, number in enumerate(here):
            progress.update(done, points[number].name)
            _launch(settings, points[number], number, config, overrides, max(1, num_cores() // most))
            progress.update(done + 1, points[number].name)


def _launch(
    settings: ScalingSettings, point: Point, number: int, config: Path, overrides: Sequence[str], threads: int
) -> None:
    """Run the ranks of a point and wait for them. However this ends, they have ended too."""
    path = result_path(settings.run, point)
    log = settings.run / "logs" / f"{point.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # the same threads at every world size, or a rank of few would have more of the machine than a rank of many
    threads = point.how.threads or threads
    command = [sys.executable, "-m", "fmsci", "scaling", str(config), "run", *overrides, "--point", str(number)]
    size, port = point.world_size, free_port()
    ranks: list[subprocess.Popen[bytes]] = []
    with log.open("wb") as stream:
        try:
            for rank in range(size):
                environment = child_environment(
                    RANK=str(rank),
                    WORLD_SIZE=str(size),
                    LOCAL_RANK=str(rank),
                    LOCAL_WORLD_SIZE=str(size),
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(port),
                    OMP_NUM_THREADS=str(threads),
                )
                ranks.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        env=environment,
                        start_new_session=True,  # Ctrl-C ends it once, through us
                        preexec_fn=end_with_parent,
                    )
                )
            _await(ranks)
        finally:
            for process in ranks:
                if process.poll() is None:
                    process.kill()
            for process in ranks:
                process.wait()
    if not path.exists():
        said = warnings_in(log) or log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise UserError(f"the point {point.name} failed: {said[0] if said else 'it said nothing'} (see {log})")
    one = measured_from(read_json(path), str(path))
    say(
        f"measured {point.name}: {1e3 * one.step_s:.3g} ms a step ({1e3 * one.low_s:.3g} to {1e3 * one.high_s:.3g}), "
        f"{one.rate:,.3g} samples/s"
    )


def _await(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for all ranks; where one failed, for the others only a while."""
    end = float("inf")
    while any(process.poll() is None for process in ranks):
        if end == float("inf") and any(process.poll() not in {None, 0} for process in ranks):
            end = time.monotonic() + GRACE_S
        if time.monotonic() > end:
            return
        time.sleep(POLL_S)
