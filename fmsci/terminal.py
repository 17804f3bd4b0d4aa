"""What people see while they wait: a bar on a terminal, a line every few seconds in a log. Only importer of rich."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.table import Table

LINE_EVERY_S = 5.0
WARNS = "fmsci: "
"""How a sentence on stderr begins."""


def say(text: str) -> None:
    """Print one line at once (logs are read while they grow). Where the reader has gone, as head does, work goes on."""
    _write(sys.stdout, f"{text}\n")


def warn(text: str) -> None:
    """Print one line on stderr; work goes on where nobody reads it, as in :func:`say`."""
    print_error(f"{WARNS}{text}\n")


def print_error(text: str) -> None:
    """Write a text on stderr in one piece: other ranks write there too. Where nobody reads it, that is all."""
    _write(sys.stderr, text)


def flush() -> None:
    """Write out what is left of stdout and stderr, for who ends the process at once."""
    for stream in (sys.stdout, sys.stderr):
        _write(stream, "")


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # closed before the process began
        return
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def warnings_in(log: Path) -> list[str]:
    """Return the sentences in a log that began as those of :func:`warn` and of mistakes do, in their order."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.removeprefix(WARNS) for line in lines if line.startswith(WARNS)]


def duration(seconds: float) -> str:
    """Return a time for people: ``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def amount(num_bytes: float) -> str:
    """Return a size for people, in binary units: ``4.2 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(round(num_bytes, 1)) < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


class Progress:
    """Progress of ``total`` units of work, with the rate and the time left; silent where ``enabled`` is false.

    ``done`` tells the units that an earlier start finished: they count as done, not in the rate. ``total`` may be set
    anew where there turns out to be less to do. With ``share`` people see the part that is done of all ``unit``, for
    work whose own unit would tell them nothing.
    """

    def __init__(
        self, title: str, total: int, unit: str, enabled: bool = True, done: int = 0, share: bool = False
    ) -> None:
        self.title, self.total, self.unit, self.enabled, self.share = title, total, unit, enabled, share
        self._start = time.monotonic()
        self._first, self._done, self._note = done, done, ""
        self._last_line = self._start
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        if self.enabled and sys.stdout.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress
            from rich.table import Column

            console = Console()
            wide = console.width
            title = Column(no_wrap=True, overflow="ellipsis", max_width=max(8, wide // 3))
            rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)  # on a narrow terminal only its end is cut
            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False, table_column=title),  # names may hold brackets
                BarColumn(bar_width=max(6, min(30, (wide - 60) // 2))),
                TextColumn("{task.fields[facts]}", markup=False, table_column=rest),
                console=console,
                expand=True,
            )
            self._task = self._bar.add_task(self.title, total=self.total, completed=self._done, facts="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None and self._task is not None:
            if kind is None and self._done > self._first:
                self._bar.update(self._task, facts=self._facts(final=True))
            self._bar.stop()
        elif self.enabled and kind is None and self._done > self._first:
            say(f"{self.title}: {self._facts(final=True)}")

    def update(self, done: int, note: str = "") -> None:
        """Say that ``done`` units are finished; ``note`` stands behind the rate."""
        self._done, self._note = done, note
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=self.total, completed=done, facts=self._facts())
        elif self.enabled and done < self.total and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            say(f"{self.title}: {self._facts()}")

    def _facts(self, final: bool = False) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = (self._done - self._first) / elapsed
        if self.share:  # rounded down: 100% is the end
            facts = f"{100 * self._done // max(1, self.total)}% of {self.unit}"
        else:
            facts = f"{self._done:,} of {self.total:,} {self.unit}, {rate:,.{1 if rate < 10 else 0}f}/s"
        if final:
            facts += f", took {duration(elapsed)}"
        elif rate > 0 and not (self.share and 100 * (self._done - self._first) < self.total):  # a guess before 1%
            facts += f", {duration((self.total - self._done) / rate)} left"
        return f"{facts}, {self._note}" if self._note else facts


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a title and a table; the first column is aligned left, the others right. In a log nothing is folded.

    On a terminal that is too narrow for several columns each row is a name and what is said of it.
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    say(title)
    grid = Table()
    for index, column in enumerate(columns):
        if index == 0:
            grid.add_column(column, justify="left", overflow="fold")  # a name, whole: people copy it
        else:
            grid.add_column(column, justify="right")
    for row in rows:
        grid.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 250, markup=False, emoji=False)
    needs = Measurement.get(console, console.options.update(max_width=10_000), grid).maximum
    if console.is_terminal and len(columns) > 3 and needs > console.width:
        _row_by_row(console, columns, rows)
    else:
        console.print(grid)


def _row_by_row(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for first, *others in rows:
        console.print(Text(first, style="bold"), soft_wrap=True)  # a name, whole: people copy it
        told = [f"{name} {value}" for name, value in zip(columns[1:], others, strict=True) if value != "-"]
        console.print(Padding(Text(", ".join(told)), (0, 0, 0, 2)))


Rows = Sequence[tuple[str, str]]
"""Labels and what they stand for."""


def lines(view: Callable[[int], Rows]) -> None:
    """Print what ``view`` tells for this width, a label and its text a line; in a log nothing is folded."""
    if not sys.stdout.isatty():
        for label, text in view(110):
            say(f"{label:<12}{text}")
        return
    from rich.console import Console

    console = Console()
    console.print(_grid(view(console.width)))


def live(view: Callable[[int], Rows], more: Callable[[], bool], every_s: float) -> None:
    """Draw what ``view`` tells again and again while there is ``more``; Ctrl-C ends it. Once where nobody looks."""
    if not sys.stdout.isatty():
        lines(view)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False, transient=False) as drawn:
        while True:
            going_on = more()
            drawn.update(_grid(view(console.width)), refresh=True)
            if not going_on:
                return
            time.sleep(every_s)


def _grid(rows: Rows) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(Text(label), Text(text))
    return grid
