"""What people see while they wait: lines in a log, a bar on a terminal."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fmsci import terminal
from fmsci.terminal import Progress, amount, duration, say, table, warn
from tests.commands import clean_environment
from tests.conftest import TRAINING


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (8.4, "8 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360_000, "100 h 00 min"),
        (-3, "0 s"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (4.2 * 2**20, "4.2 MiB"),
        (2**20 - 1, "1.0 MiB"),  # not 1024.0 KiB
        (3 * 2**30, "3.0 GiB"),
        (5 * 2**40, "5.0 TiB"),
        (2**52, "4096.0 TiB"),
    ],
)
def test_amounts(num_bytes, text):
    assert amount(num_bytes) == text


def test_say_and_warn_write_where_they_should(capsys):
    say("result")
    warn("careful")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("result\n", "fmsci: careful\n")


def into_a_closed_pipe(words, **more):
    """Run fmsci with stdout and stderr into a pipe that nobody reads any more, as ``2>&1 | true``."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "fmsci", *map(str, words)]
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=closed, check=False, timeout=120, **more)
    return done.returncode


def test_exit_codes_hold_where_nobody_reads_what_is_said(train_config, tmp_path):
    """A mistake, a run that is saved, and one that warns (of the mirror, which cannot be imported) on its way."""
    environment = clean_environment()
    assert into_a_closed_pipe(["train", tmp_path / "none.yaml"], env=environment) == 2
    assert into_a_closed_pipe(["train"], env=environment) == 2
    mine = ["train", train_config, *TRAINING, f"run={tmp_path / 'run'}"]
    assert into_a_closed_pipe([*mine, "checkpoint.deadline_minutes=0.0001"], env=environment) == 75
    (package := tmp_path / "packages/wandb").mkdir(parents=True)
    (package / "__init__.py").write_text("Settings = dict")  # has no init: that is told, the run goes on
    path = os.pathsep.join([str(package.parent), environment.get("PYTHONPATH", "")])
    assert into_a_closed_pipe([*mine, "monitor.wandb=x"], env=environment | {"PYTHONPATH": path}) == 0
    assert (tmp_path / "run/result.json").exists()


def test_what_is_closed_from_the_start_takes_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    warn("careful")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "stdout", None)
    say("result")
    terminal.flush()


def test_a_log_gets_few_plain_lines_and_a_last_one(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0.0)
    with Progress("train a", 2000, "steps") as progress:
        progress.update(500, "error 0.5")
        monkeypatch.setattr(terminal, "LINE_EVERY_S", 60.0)
        for step in range(501, 2001):
            progress.update(step)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"train a: 500 of 2,000 steps, [\d,]+(\.\d)?/s, \d+ s left, error 0\.5", lines[0])
    assert re.fullmatch(r"train a: 2,000 of 2,000 steps, [\d,]+(\.\d)?/s, took \d+ s", lines[1])


def test_what_an_earlier_start_did_counts_as_done_but_not_in_the_rate(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0.0)
    with Progress("t", 10**9, "steps", done=10**9 - 1) as progress:
        progress.update(10**9 - 1)
        progress.update(10**9)  # told once, at the end
    first, last = capsys.readouterr().out.splitlines()
    assert first == "t: 999,999,999 of 1,000,000,000 steps, 0.0/s"  # no rate, so no time left
    assert last.startswith("t: 1,000,000,000 of 1,000,000,000 steps, ")
    assert ", took " in last
    assert float(re.search(r"([\d,.]+)/s", last)[1].replace(",", "")) < 10**7


def test_a_total_that_becomes_less_is_the_one_that_counts(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0.0)
    with Progress("t", 10, "steps") as progress:
        progress.update(4)
        progress.total = 8
        progress.update(8)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("t: 4 of 10 steps")
    assert last.startswith("t: 8 of 8 steps")


def test_work_whose_unit_tells_people_nothing_is_shown_as_a_share(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0.0)
    with Progress("q1", 20_000, "the training", done=2_000, share=True) as progress:
        progress.update(2_199, "1 of 7 jobs")
        progress.update(8_600, "3 of 7 jobs, scratch-256")
        progress.update(19_999, "6 of 7 jobs, scratch-256")
        progress.update(20_000, "7 of 7 jobs")
    early, first, nearly, last = capsys.readouterr().out.splitlines()
    assert early == "q1: 10% of the training, 1 of 7 jobs"  # too little of this start to tell the time left
    assert re.fullmatch(r"q1: 43% of the training, \d+ s left, 3 of 7 jobs, scratch-256", first)
    assert nearly.startswith("q1: 99% of the training, ")
    assert re.fullmatch(r"q1: 100% of the training, took \d+ s, 7 of 7 jobs", last)


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_done_says_nothing(capsys, enabled):
    with Progress("t", 10, "steps", enabled=enabled) as progress:
        progress.update(0)
    assert capsys.readouterr().out == ""


def test_a_rank_that_does_not_speak_is_silent(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0.0)
    with Progress("t", 10, "steps", enabled=False) as progress:
        progress.update(5)
        progress.update(10)
    assert capsys.readouterr().out == ""


def test_a_failure_is_not_reported_as_done(capsys):
    def fail():
        with Progress("t", 10, "steps") as progress:
            progress.update(5)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capsys.readouterr().out == ""


def test_a_long_name_is_folded_and_never_cut(capsys):
    name = "runs/" + "0123456789" * 30
    table("runs", ("run", *"abcdefgh"), [(name, *["1,234,567"] * 8)])
    rows = [line.split("│")[1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(row.strip() for row in rows) == name


def test_a_table_keeps_what_names_hold(capsys):
    table("runs of [/x]", ("run [a]", "n"), [("[/x]", "1"), ("[bold]b", "20"), (":smile:", "3")])
    said = capsys.readouterr().out
    assert said.startswith("runs of [/x]\n")
    for text in ("run [a]", "[/x]", "[bold]b", ":smile:"):
        assert text in said.split("\n", 1)[1]
    assert max(map(len, said.splitlines())) <= 110


BAR = """
import time
from fmsci.terminal import Progress, say
with Progress("train [/x]", 3, "steps") as progress:
    for step in range(1, 4):
        progress.update(step, "error [0.5]")
        time.sleep(0.15)
say("after")
"""


def on_a_terminal(code, width=120):
    """Run Python code whose stdout is a real pseudo-terminal; return exit code and what was drawn there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(width), "LINES": "40"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    drawn = b""
    try:
        while block := os.read(ours, 65536):
            drawn += block
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    return process.wait(timeout=30), drawn.decode()


def test_a_terminal_gets_a_bar():
    code, drawn = on_a_terminal(BAR)
    assert code == 0, drawn
    assert "\x1b[" in drawn  # drawn over itself
    assert "━" in drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert "train [/x]" in plain
    assert "3 of 3 steps" in plain
    assert "error [0.5]" in plain
    assert plain.rstrip().endswith("after")
    assert "train [/x]: " not in plain  # no lines for a log beside the bar


LONG = """
import time
from fmsci.terminal import Progress
with Progress("study", 1800, "steps of all runs") as progress:
    for step in (600, 1200, 1800):
        progress.update(step, "finetune-256, scratch-256")
        time.sleep(0.15)
"""


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_narrow_terminal_keeps_the_bar_and_cuts_only_the_end(width):
    code, drawn = on_a_terminal(LONG, width)
    assert code == 0, drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", plain) if "of 1" in line]
    assert all(re.match(r"study [━╸╺ ]{6,} [\d,]+ of 1", line) and len(line) <= width for line in lines), lines
    assert lines[-1].endswith("scratch-256" if width == 120 else "…")
    if width > 40:
        assert ", took " in lines[-1]
        assert " left" in lines[0]
        assert " left" not in lines[-1]


WIDE = """
from fmsci.terminal import table
row = "runs/" + "long-" * 12, "finished", "600 of 600", "0.04", "-"
table("runs", ("run", "state", "step", "error", "left"), [row])
"""


@pytest.mark.parametrize(("width", "drawn_as"), [(140, "table"), (80, "rows"), (60, "rows")])
def test_a_terminal_too_narrow_for_a_table_gets_a_row_after_the_other(width, drawn_as):
    code, drawn = on_a_terminal(WIDE, width)
    assert code == 0, drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert ("│" in plain) == (drawn_as == "table")
    assert "runs/" + "long-" * 12 in plain  # nothing of it is folded
    if drawn_as == "rows":
        assert "  state finished, step 600 of 600, error 0.04" in plain
        assert "left" not in plain  # nothing is known of it


def test_a_pipe_gets_no_bar():
    done = subprocess.run([sys.executable, "-c", BAR], capture_output=True, text=True, check=True)
    first, last = done.stdout.splitlines()
    assert first.startswith("train [/x]: 3 of 3 steps, ")
    assert last == "after"
    assert "\x1b" not in done.stdout


def test_work_goes_on_where_the_reader_of_its_lines_has_gone(tmp_path):
    """As with ``fmsci train ... | head -1``: nobody reads any more, and what is under way is not to fail for it."""
    script = (
        "import sys; from fmsci.terminal import say; say('one'); input(); say('two'); say('three'); open('done', 'w')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert process.stdout.readline() == b"one\n"
    process.stdout.close()
    _, complaints = process.communicate(b"go on\n", timeout=60)
    assert (process.returncode, complaints) == (0, b"")
    assert (tmp_path / "done").exists()
