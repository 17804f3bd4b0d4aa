"""What ``fmsci watch`` shows of a run, from its files alone: it works over ssh, during the run and long after."""

from __future__ import annotations

import math
import statistics
import time
from array import array
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmsci.cluster.run_folders import find_runs
from fmsci.cluster.status import RunStatus, describe_checkpoint, run_status
from fmsci.config import TrainSettings, load_settings
from fmsci.errors import UserError
from fmsci.files import regular_file
from fmsci.terminal import duration
from fmsci.train.entries import METRICS, entries_of, whole_lines

BLOCKS = "▁▂▃▄▅▆▇█"
FRESH_S = 120.0
"""A run whose last entry is younger is taken to be running, also where its lock is not seen from this host."""

RECENT = 10
"""The rate and the time left are those of so many entries."""

KEPT = 100
"""So many entries are kept, the newest: those of steps and of validations."""

DRAWN = ("train/loss", "train/rel_l2")
"""Curves beside those of the validation."""

SEEN_BYTES = 256
"""By so much of what was read last the file is known again: one that was cut may have grown beyond it since."""

Row = tuple[str, str]


class Watched:
    """A run folder that may be growing. Each look reads what has come since the last one.

    Of a run of weeks only what is drawn is kept, as numbers: its entries would take gigabytes.
    """

    def __init__(self, run: Path) -> None:
        """Raises UserError where there is no run."""
        if run not in find_runs([run]):
            raise UserError(f"{run} is no run folder, but holds some; 'fmsci status {run}' lists them: name one")
        self.run = run
        self._path = run / METRICS
        self._forget()
        self.look()

    def _forget(self) -> None:
        self._offset, self._inode, self._seen = 0, 0, b""
        self.count = 0
        """Entries so far."""
        self._known: set[str] = set()
        self._curves: dict[str, array[float]] = {}
        self._newest: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def look(self) -> None:
        """Read what is new. A start that continues an earlier one cuts off what that wrote after its checkpoint; then
        all is read anew."""
        self.status: RunStatus = run_status(self.run, {})
        if not self._path.exists():
            return
        with regular_file(self._path).open("rb") as stream:
            facts = self._path.stat()
            stream.seek(self._offset - len(self._seen))
            if facts.st_ino != self._inode or stream.read(len(self._seen)) != self._seen:
                self._forget()
                self._inode = facts.st_ino
                stream.seek(0)
            for lines in whole_lines(stream):
                self._offset += len(lines)
                self._seen = lines[-SEEN_BYTES:]
                for entry in entries_of(lines):
                    self._take(entry)
        self._age_s = max(0.0, time.time() - facts.st_mtime)

    def _take(self, entry: dict[str, Any]) -> None:
        self.count += 1
        self._newest.append(entry)
        if not entry.keys() <= self._known:
            self._known |= entry.keys()
            self._curves |= {name: array("d") for name in entry if _is_drawn(name) and name not in self._curves}
        for name in entry.keys() & self._curves.keys():
            self._curves[name].append(entry[name])

    @property
    def state(self) -> str:
        """The run's state, as ``fmsci status`` tells it; running where only the lock is not seen from here."""
        told = self.status.state
        return "running" if told == "stopped" and self.count and self._age_s < FRESH_S else told

    @property
    def over(self) -> bool:
        """Whether nothing more will come. A job that lost a rank is started again; without a job nobody does that."""
        return self.state in {"finished", "failed"} or (self.state == "lost" and self.status.job is None)

    def curve(self, name: str) -> Sequence[float]:
        """Return all values of a name that is drawn, in order."""
        return self._curves.get(name, array("d"))

    def recent(self, name: str) -> Sequence[float]:
        """Return the newest values of a name, in order."""
        found = [float(entry[name]) for entry in self._newest if name in entry]
        return found[-RECENT:]

    def last(self, name: str) -> float | None:
        """Return the newest value of a name."""
        return next(iter(self.recent(name)[-1:]), None)

    def view(self, width: int) -> list[Row]:
        """Return the lines for a terminal of so many columns: a label and what is told."""
        rows = [("run", self._headline()), ("steps", self._progress(width))]
        if self.status.why and self.state != "running":
            rows.append(("", self.status.why))
        room = max(10, min(60, width - 48))
        for label, name in [("loss", "train/loss"), ("error", "train/rel_l2"), *self._validations()]:
            curve = self.curve(name)
            if curve:
                rows.append((label, f"{sparkline(curve, room)}  {curve[-1]:.4g}, least {min(curve):.4g}"))
        rows += [(label, text) for label, text in (("speed", self._speed()), ("ranks", self._ranks())) if text]
        saved = describe_checkpoint(self.status)
        if saved is not None:
            rows.append(("checkpoint", saved))
        if self.state == "finished" and (self.run / "model").is_dir():
            data = load_settings(TrainSettings, self.run / "config.yaml").data.folders[0]
            rows.append(("next", f"fmsci evaluate {self.run}/model --data {data}"))
        return rows

    def _headline(self) -> str:
        text = f"{self.run}: {self.state}"
        if self.count:
            text += f", epoch {(self.last('epoch') or 0) + 1:.0f}, last entry {duration(self._age_s)} ago"
        return text

    def _progress(self, width: int) -> str:
        step, steps = self.status.step, self.status.steps
        if not steps:
            return f"{step:,}"
        room = max(6, min(30, width // 4))
        done = round(room * min(1.0, step / steps))
        text = f"{'━' * done}{'─' * (room - done)} {step:,} of {steps:,}"
        recent = self.recent("perf/step_ms")
        if recent and self.state in {"running", "RUNNING"}:
            text += f", {duration((steps - step) * statistics.median(recent) / 1000.0)} left"
        return text

    def _validations(self) -> list[Row]:
        errors = [name for name in self._curves if name.startswith("valid/") and name.endswith("rel_l2")]
        several = len(errors) > 1
        return [("valid" + (f" {name.split('/')[1]}" if several else ""), name) for name in errors]

    def _speed(self) -> str:
        rates = self.recent("perf/samples_per_s")
        if not rates:
            return ""
        parts = [f"{statistics.median(rates):,.0f} samples/s"]
        for name, form in (
            ("perf/step_ms", "{:,.1f} ms a step"),
            ("perf/data_wait_pct", "{:.1f}% waiting for data"),
            ("perf/comm_pct", "{:.1f}% for other ranks"),
            ("memory/peak_gib", "{:.2f} GiB"),
        ):
            value = self.last(name)
            if value is not None:
                parts.append(form.format(value))
        return ", ".join(parts)

    def _ranks(self) -> str:
        count = self.last("perf/ranks")
        if count is None:
            return ""
        text = f"{count:.0f}"
        if count > 1:
            for which in ("slowest", "fastest"):
                rank, own = self.last(f"perf/{which}_rank"), self.last(f"perf/{which}_rank_ms")
                if rank is not None and own is not None:
                    text += f", {which} {rank:.0f} ({own:,.1f} ms of its own a step)"
        return text


def _is_drawn(name: str) -> bool:
    return name in DRAWN or name.startswith("valid/")


def sparkline(values: Sequence[float], width: int) -> str:
    """Return values as blocks, means of equal stretches where there are more than ``width``; logarithmic.

    What is not finite or not above 0 is a blank.
    """
    count = min(width, len(values))
    parts = [values[len(values) * place // count : len(values) * (place + 1) // count] for place in range(count)]
    means = [statistics.fmean(part) for part in parts]
    logs = [math.log(mean) if 0 < mean < math.inf else math.nan for mean in means]
    known = [value for value in logs if not math.isnan(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    height = max(high - low, 1e-9)
    top = len(BLOCKS) - 1
    return "".join(" " if math.isnan(value) else BLOCKS[round((value - low) / height * top)] for value in logs)
