"""The entries of a run are read whole while it writes them, and after what a power loss leaves."""

from pathlib import Path

import pytest

from fmsci.config import TrainSettings, load_settings
from fmsci.train import entries
from fmsci.train.entries import each_entry, end_of_step, last_entries
from fmsci.train.journal import Journal

ROOT = Path(__file__).parents[2]


def test_the_last_entries_of_a_file_that_grows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_entries(path) == []
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1000)) + '{"step": 10')
    assert last_entries(path) == [{"step": step} for step in range(1000)]  # the line being written is left out
    # 100 bytes: the 11 of that, 6 lines of 14, and 5 bytes of the line before, which are no entry.
    assert last_entries(path, num_bytes=100) == [{"step": step} for step in range(994, 1000)]


@pytest.mark.parametrize(
    "bad",
    [
        b"\0" * 4096,
        b'{"step": 3, "train/lo',
        b"[1, 2]",
        b'{"loss": 1}',
        b'{"step": "4"}',
        b"[" * 9999,
        b"\xff\xfe",
        b"",
    ],
    ids=["zeros", "half", "list", "no step", "text", "deep", "binary", "empty"],
)
def test_a_line_that_is_no_entry_hides_no_other(tmp_path, bad):
    """A file can end in zeros after a power loss; the next start goes on behind them."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 0.5}\n' + bad + b'\n{"step": 2, "loss": NaN}\n')
    assert [entry["step"] for entry in last_entries(path)] == [1, 2]
    assert [entry["step"] for entry in each_entry(path)] == [1, 2]
    assert next(each_entry(path)) == {"step": 1, "loss": 0.5}
    with path.open("rb") as stream:
        assert end_of_step(stream, 1) == len(b'{"step": 1, "loss": 0.5}\n')
        assert end_of_step(stream, 2) == path.stat().st_size
        assert end_of_step(stream, 0) == 0


@pytest.mark.parametrize("block", [7, 50, 1 << 20])
def test_entries_are_read_piece_by_piece(tmp_path, monkeypatch, block):
    monkeypatch.setattr(entries, "BLOCK_BYTES", block)
    path = tmp_path / "metrics.jsonl"
    assert list(each_entry(path)) == []
    lines = [f'{{"step": {step}, "{"valid/x" if step % 5 == 0 else "train/loss"}": 0.5}}\n' for step in range(1, 40)]
    path.write_text("".join(lines) + '{"step": 40')
    assert [entry["step"] for entry in each_entry(path)] == list(range(1, 40))
    assert [entry["step"] for entry in each_entry(path, b'"valid/')] == list(range(5, 40, 5))
    with path.open("rb") as stream:
        for step in (0, 1, 17, 39, 50):
            assert end_of_step(stream, step) == sum(map(len, lines[:step]))


def test_the_end_of_a_step_is_looked_for_from_the_end(tmp_path):
    """What lies before a run's last checkpoint is gigabytes."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(b'{"step": %d, "filling": %d}\n' % (step, 10**18) for step in range(100_000)))
    with path.open("rb", buffering=0) as stream:
        seen = Reading(stream)
        end = end_of_step(seen, 99_000)
    assert path.read_bytes()[:end].endswith(b'{"step": 99000, "filling": 1000000000000000000}\n')
    assert seen.num_bytes <= entries.BLOCK_BYTES < path.stat().st_size / 4


def test_a_start_cuts_the_metrics_where_they_lie(tmp_path):
    """In place of writing gigabytes anew, while all other ranks wait."""
    settings = load_settings(TrainSettings, ROOT / "configs/pretrain/quickstart.yaml", [f"run={tmp_path}"])
    path = tmp_path / "metrics.jsonl"
    lines = [f'{{"step": {step}, "train/loss": 0.5}}\n'.encode() for step in range(1, 11)]
    path.write_bytes(b"".join(lines) + b"\0" * 100)
    inode = path.stat().st_ino
    Journal(settings, 6, []).close()
    assert (path.stat().st_ino, path.read_bytes()) == (inode, b"".join(lines[:6]))
    Journal(settings, 0, []).close()
    assert (path.stat().st_ino, path.read_bytes()) == (inode, b"")


class Reading:
    """A file that counts what is read of it."""

    def __init__(self, stream):
        self.stream, self.num_bytes = stream, 0

    def seek(self, *where):
        return self.stream.seek(*where)

    def read(self, count):
        self.num_bytes += count
        return self.stream.read(count)
