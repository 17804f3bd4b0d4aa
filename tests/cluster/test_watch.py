"""``fmsci watch``: from real run folders, in a log, on a terminal, while a run grows and after it."""

import json
import os
import re
import shutil
import time
import tracemalloc
from pathlib import Path

import pytest

from fmsci.cluster.watch import Watched, sparkline
from fmsci.errors import UserError
from fmsci.locks import lock
from fmsci.train import entries
from tests.commands import run as fmsci
from tests.conftest import TRAINING
from tests.test_terminal import on_a_terminal


@pytest.fixture
def copy(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def entries_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def rows_of(run, width=100):
    return dict(Watched(run).view(width))


def test_a_finished_run_in_a_log(trained, poisson_data):
    said = fmsci(["watch", trained, "--once"])
    assert f"{trained}: finished, epoch 4" in re.sub(r"\s+", " ", said)
    assert "12 of 12" in said
    losses = [entry["train/loss"] for entry in entries_of(trained) if "train/loss" in entry]
    assert f"{losses[-1]:.4g}, least {min(losses):.4g}" in said
    assert re.search(r"speed +[\d,]+ samples/s, [\d.,]+ ms a step, [\d.]+% waiting for data", said)
    assert re.search(r"ranks +1\s", said)
    assert f"fmsci evaluate {trained}/model --data {poisson_data}" in re.sub(r"\s+", " ", said)
    assert "\x1b" not in said
    assert fmsci(["watch", trained]) == said or "ago" in said  # a pipe gets it once, too


def test_a_run_under_way_has_curves_and_time_left(copy):
    for name in ("result.json", "outcome.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "checkpoints")
    kept = [entry for entry in entries_of(copy) if entry["step"] <= 7]
    for entry in kept:
        if "perf/step_ms" in entry:
            entry["perf/step_ms"] = 60_000.0
    (copy / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    with lock(copy / ".lock", "locked"):
        rows = rows_of(copy)
    assert "running" in rows["run"]
    assert "7 of 12" in rows["steps"]
    assert "5 min 00 s left" in rows["steps"]
    assert "running" in rows_of(copy)["run"]  # its lock is not seen, but its last entry is young
    old = time.time() - 3600

    os.utime(copy / "metrics.jsonl", (old, old))
    assert "stopped" in rows_of(copy)["run"]
    assert "last entry 1 h 00 min ago" in rows_of(copy)["run"]


@pytest.mark.parametrize(
    ("status", "job", "over"),
    [
        ("finished", "17 0", True),
        ("failed", "17 0", True),
        ("saved", None, False),
        ("lost", "17 0", False),
        ("lost", None, True),
    ],
)
def test_a_run_that_lost_a_rank_is_over_where_no_job_starts_it_again(copy, status, job, over):
    (copy / "outcome.json").write_text(json.dumps({"status": status, "why": "rank 1 on node2", "step": 12}))
    if job is not None:
        (copy / "slurm_job").write_text(f"{job}\n")
    assert Watched(copy).over is over


def test_what_is_new_is_read_and_a_shorter_file_is_read_anew(copy):
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:5]))
    watched = Watched(copy)
    assert watched.count == 5
    with (copy / "metrics.jsonl").open("a") as stream:
        stream.write(lines[5] + lines[6][:20])
        stream.flush()
        watched.look()
        assert watched.count == 6  # half a line waits for its end
        stream.write(lines[6][20:])
    watched.look()
    assert list(watched.recent("step")) == [json.loads(line)["step"] for line in lines[:7]]
    (copy / "metrics.jsonl").write_text("".join(lines[:2]))  # as a start cuts it that continues
    watched.look()
    assert list(watched.recent("step")) == [json.loads(line)["step"] for line in lines[:2]]
    again = [line.replace('"step": ', '"step": 1') for line in lines]
    (copy / "metrics.jsonl").write_text("".join([lines[0], *again[1:]]))  # cut and grown beyond that
    watched.look()
    assert list(watched.recent("step")) == [json.loads(line)["step"] for line in [lines[0], *again[1:]]][-10:]


def test_a_run_of_weeks_takes_memory_for_what_is_drawn_alone(copy, monkeypatch):
    monkeypatch.setattr(entries, "BLOCK_BYTES", 1 << 14)
    entry = {"epoch": 0, "train/loss": 0.5, "train/rel_l2": 0.25} | {f"perf/{number}": 1.0 for number in range(12)}
    memory = {}
    for count in (400, 4000):
        with (copy / "metrics.jsonl").open("w") as stream:
            stream.writelines(json.dumps({"step": 10 * step, **entry}) + "\n" for step in range(count))
        memory[count] = memory_of(lambda: Watched(copy))
    assert memory[4000] - memory[400] < 50 * 3600  # two numbers each; an entry takes a thousand bytes and more


def memory_of(work):
    """Return the most bytes of Python's objects while ``work`` is done."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ranks_and_their_stragglers_are_told(copy):
    figures = {"perf/ranks": 64.0, "perf/slowest_rank": 17.0, "perf/slowest_rank_ms": 31.25}
    figures |= {"perf/fastest_rank": 3.0, "perf/fastest_rank_ms": 12.5}
    with (copy / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 12, "epoch": 3, **figures}) + "\n")
    ranks = rows_of(copy)["ranks"]
    assert ranks.startswith("64, slowest 17 (31.2 ms of its own a step), fastest 3 (12.5 ms")


LIVE = """
import sys
sys.argv = ["fmsci", "watch", {folder!r}, "--every", "0.1"]
from fmsci.cli import main
main()
"""


def test_a_terminal_is_drawn_over_until_the_run_ends(train_config, tmp_path):
    """Live, while the run is trained beside it."""
    folder = tmp_path / "run"
    from tests.train.test_resume import start, wait_for_step

    process = start(["train", train_config, f"run={folder}", *TRAINING, "optim.epochs=150"])
    wait_for_step(process, folder, 3)
    code, drawn = on_a_terminal(LIVE.format(folder=str(folder)), width=100)
    process.communicate()
    assert code == 0, drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert len(set(re.findall(r"([\d,]+) of 450", plain))) > 1  # it moved
    assert "running" in plain
    assert re.search(r"\d+ s left", plain)
    assert "finished" in plain.rsplit("speed", 2)[-2]
    assert all(mark in plain for mark in ("loss", "error", "valid", "█"))
    assert max(map(len, plain.splitlines())) <= 100


def test_a_folder_without_a_run_gets_a_sentence(tmp_path, copy):
    said = fmsci(["watch", tmp_path / "none"], code=2)
    assert "is no run folder and holds none" in said
    with pytest.raises(UserError, match=r"is no run folder, but holds some; 'fmsci status .*' lists them"):
        Watched(tmp_path)


def test_sparklines():
    assert sparkline([1.0, 2.0, 4.0, 8.0], 10) == "▁▃▆█"
    assert sparkline([8.0, 8.0, 1.0, 1.0], 2) == "█▁"
    assert sparkline([3.0, 3.0], 5) == "▁▁"
    assert sparkline([], 5) == ""
    assert sparkline([1.0, float("nan"), float("inf"), 2.0, 0.0], 5) == "▁  █ "
    assert len(sparkline([float(value + 1) for value in range(1000)], 60)) == 60
