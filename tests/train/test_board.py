"""TensorBoard itself, started on a run with pictures as docs/monitoring.md says, and looked at in a browser."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from fmsci.train.journal import layout
from tests.browser import Browser, needs_browser
from tests.commands import clean_environment, run
from tests.conftest import TRAINING

PAGES = {"scalars", "custom_scalars", "text", "hparams", "images"}


@pytest.fixture(scope="module")
def board(train_config, tmp_path_factory):
    """The address of a TensorBoard that shows a run with pictures."""
    folder = tmp_path_factory.mktemp("pictured") / "run"
    run(["train", train_config, f"run={folder}", *TRAINING, "monitor.pictures=true"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("tensorboard")
    process = subprocess.Popen(
        [program, "--logdir", folder / "tensorboard", "--port", str(port)],
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while not {"train/loss", "final/valid_rel_l2"} <= tags(address):
            assert process.poll() is None
            assert time.monotonic() < deadline, "TensorBoard never showed the run"
            time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait()


def served(address):
    with urllib.request.urlopen(address, timeout=60) as answer:
        return json.load(answer)


def tags(address):
    try:
        return {tag for one in served(f"{address}/data/plugin/scalars/tags").values() for tag in one}
    except OSError:
        return set()


def test_every_page_that_the_run_has_something_for_is_on(board):
    listing = served(f"{board}/data/plugins_listing")
    assert {name for name in PAGES if listing[name]["enabled"]} == PAGES
    # a run without these has none of them on: the listing tells of this run, not of the program
    assert not any(listing[name]["enabled"] for name in ("histograms", "graphs", "audio", "mesh"))


def test_it_listens_on_this_host_alone(board):
    port = f":{int(board.rpartition(':')[2]):04X}"
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    heard = [row[1] for row in rows if row[1].endswith(port) and row[3] == "0A"]  # state: LISTEN
    own = {"0100007F" + port, "00000000000000000000000001000000" + port}  # 127.0.0.1, ::1
    assert heard
    assert set(heard) <= own


def look(browser, address, ready):
    """Open a page and wait until it shows what it should; return its texts and pictures."""
    browser.visit(address)
    deadline = time.monotonic() + 180
    while True:
        texts, pictures = browser.seen()
        if ready(texts, pictures) or time.monotonic() > deadline:
            return texts, pictures
        time.sleep(0.5)


@pytest.mark.slow
@needs_browser
def test_its_pages_show_the_run_in_a_browser(board, tmp_path):
    page = layout(["poisson"])
    shown = {title for charts in page.values() for title in charts} | set(page)
    shown.add("valid/poisson/rel_l2 (.)")  # the curve of a chart, by its tag and run
    groups = {"memory", "perf", "train", "valid"}
    with Browser(tmp_path) as browser:
        texts, _ = look(browser, board, lambda texts, _: groups <= set(texts))
        assert groups <= set(texts)
        assert "No dashboards are active for the current data set." not in texts

        texts, _ = look(browser, f"{board}/#custom_scalars", lambda texts, _: shown <= set(texts))
        assert shown <= set(texts)

        def both(texts, pictures):
            return len(pictures) == 2 and all(width for _, width, _ in pictures)

        texts, pictures = look(browser, f"{board}/#images", both)
        assert {"valid/poisson/fields", "valid/poisson/spectrum"} <= set(texts)
        assert len(pictures) == 2
        assert all(width > height > 100 for _, width, height in pictures)

        texts, _ = look(browser, f"{board}/#text", lambda texts, _: any("batch_size: 5" in text for text in texts))
        assert any("batch_size: 5" in text and "width: 4" in text for text in texts)


def test_the_page_of_custom_scalars_is_served(board):
    page = served(f"{board}/data/plugin/custom_scalars/layout")
    titles = [part["title"] for part in page["category"]]
    assert titles == ["is it learning", "is it fast", "where is the error"]
