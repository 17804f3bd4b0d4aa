"""The entries of a run are read whole while it writes them, and after what a power loss leaves."""

import pytest

from fmsci.train.entries import all_entries, last_entries


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
    assert all_entries(path)[0] == {"step": 1, "loss": 0.5}
