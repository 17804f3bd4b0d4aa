"""A few steps under torch.profiler: a trace for a viewer, and a table of the stages of a step. Rank 0 only."""

from __future__ import annotations

import bisect
from contextlib import ExitStack
from typing import Any

from torch.profiler import ProfilerActivity, profile, schedule

from fmsci.files import publish_file, write_json, write_text
from fmsci.stages import STAGES, naming
from fmsci.terminal import say, warn
from fmsci.train.build import Job
from fmsci.train.trouble import Trouble

SKIPPED, WARM = 2, 1
"""Steps of a start before the profile: the first ones make constants and choose kernels."""

Rows = list[dict[str, Any]]


class Profile:
    """Profiles ``monitor.profile`` steps near the start of a run; without it every method does nothing."""

    def __init__(self, job: Job, trouble: Trouble) -> None:
        self._job, self._trouble = job, trouble
        self._steps = job.settings.monitor.profile if job.world.is_main else None
        self._held = ExitStack()
        self._profiler: Any = None
        self._left = 0

    def __enter__(self) -> Profile:
        if self._steps is not None:
            kinds = [ProfilerActivity.CPU]
            if self._job.device.type == "cuda":
                kinds.append(ProfilerActivity.CUDA)
            self._held.enter_context(naming())
            when = schedule(wait=SKIPPED, warmup=WARM, active=self._steps, repeat=1)
            self._profiler = self._held.enter_context(profile(activities=kinds, schedule=when, acc_events=True))
            self._left = SKIPPED + WARM + self._steps
        return self

    def step(self) -> None:
        """Count a step."""
        if self._profiler is not None:
            self._profiler.step()
            self._left -= 1
            if self._left == 0:
                self._end()

    def __exit__(self, *error: Any) -> None:
        if self._profiler is not None:
            done = self._steps - self._left if self._steps is not None else 0
            self._end(max(0, done))

    def _end(self, steps: int | None = None) -> None:
        """Stop and write; of fewer ``steps`` where the run ended before."""
        profiler, self._profiler = self._profiler, None
        self._held.close()
        counted = self._steps if steps is None else steps
        folder = self._job.run / "profile"
        if not counted:
            warn(f"monitor.profile: the run ended within the {SKIPPED + WARM} steps that warm up; there is no profile")
            return
        with self._trouble.kept():
            with publish_file(folder / "trace.json.gz") as temporary:
                # The name says how it is written; what is published has none.
                packed = temporary.with_name(temporary.name + ".json.gz")
                profiler.export_chrome_trace(str(packed))
                packed.replace(temporary)
            rows = table_of(profiler.events(), counted, self._job.device.type)
            write_json(folder / "stages.json", {"steps": counted, "device": self._job.device.type, "stages": rows})
            write_text(folder / "stages.txt", as_text(rows, counted, self._job.device.type))
            say(f"profile of {counted} steps: {folder}/stages.txt; open {folder}/trace.json.gz in ui.perfetto.dev")


def table_of(events: Any, steps: int, device: str) -> Rows:
    """Return milliseconds of a step by stage: outside the backward pass, inside it, and how often.

    On a CPU a stage lasts as long as it is open; on a GPU it has the time of the kernels that it launched.
    """
    named = [event for event in events if event.name in STAGES and "CUDA" not in str(event.device_type)]
    whole = _steps(named)  # what comes between two of them, a validation, is no part of a step
    named = [event for event in named if _holds(whole, event.time_range.start)]
    backward = sorted((e.time_range.start, e.time_range.end) for e in named if e.name == "backward")
    rows: Rows = []
    for name in STAGES:
        own = [event for event in named if event.name == name]
        spans = sorted((event.time_range.start, event.time_range.end) for event in own)
        inside = [_holds(backward, start) and name != "backward" for start, _ in spans]
        if device == "cuda":
            outer, inner = _kernel_us(events, spans, backward, name)
        else:
            outer = sum(end - start for (start, end), within in zip(spans, inside, strict=True) if not within)
            inner = sum(end - start for (start, end), within in zip(spans, inside, strict=True) if within)
        rows.append(
            {"stage": name, "ms": outer / 1e3 / steps, "in_backward_ms": inner / 1e3 / steps, "calls": len(own) / steps}
        )
    return rows


def _steps(named: list[Any]) -> list[tuple[float, float]]:
    """Return the spans of the steps: from asking for a batch to the end of the update."""
    begins = sorted(event.time_range.start for event in named if event.name == "data")
    ends = sorted(event.time_range.end for event in named if event.name == "optimizer")
    found = []
    for end in ends:
        at = bisect.bisect_right(begins, end) - 1
        if at >= 0:
            found.append((begins[at], end))
    return found


def _holds(spans: list[tuple[float, float]], moment: float) -> bool:
    """Tell whether one of ``spans``, in order and apart from each other, holds a moment."""
    at = bisect.bisect_right(spans, (moment, float("inf"))) - 1
    return at >= 0 and moment <= spans[at][1]


def _kernel_us(
    events: Any, spans: list[tuple[float, float]], backward: list[tuple[float, float]], name: str
) -> tuple[float, float]:
    """Return the microseconds of kernels that were launched within ``spans``, outside and inside the backward pass."""
    outer = inner = 0.0
    for event in events:
        # A profiler may show a stage as a kernel too: it is the sum of others.
        took = sum(kernel.duration for kernel in event.kernels if kernel.name not in STAGES)
        if took and _holds(spans, event.time_range.start):
            if name != "backward" and _holds(backward, event.time_range.start):
                inner += took
            else:
                outer += took
    return outer, inner


def as_text(rows: Rows, steps: int, device: str) -> str:
    """Return the table for people."""
    clock = "time of the kernels that a stage launched" if device == "cuda" else "time that a stage was open"
    lines = [
        f"milliseconds of a step, mean of {steps} steps on rank 0 ({clock})",
        "backward holds all that its column lists, and what has no name there; reduce holds only what",
        "starts an exchange: perf/comm_pct tells how long a rank waits for it",
        "",
        f"{'stage':<12}{'forward':>12}{'in backward':>14}{'calls':>8}",
    ]
    for row in rows:
        lines.append(f"{row['stage']:<12}{row['ms']:>12.3f}{row['in_backward_ms']:>14.3f}{row['calls']:>8.1f}")
    return "\n".join(lines) + "\n"
