"""Small real data and a small real pretrained model, made once for all tests that only read them."""

import os
import signal

import pytest
import torch

from tests.commands import run

if not torch.cuda.is_available():  # kernels for a GPU run in Triton's interpreter; it asks once, when it is imported
    os.environ["TRITON_INTERPRET"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

TRAINING = [
    "model.width=4",
    "model.modes=4",
    "model.layers=2",
    "optim.batch_size=5",
    "optim.epochs=4",
    "optim.lr=3e-3",
    "monitor.every_steps=1",
    "monitor.pictures=false",
    "engine.threads=1",
]
"""A training run of 12 steps on 13 samples: batches of 5, 5 and 3, so that no world size divides them evenly."""


@pytest.fixture(autouse=True)
def _all_numbers():
    """A training within this process takes the smallest numbers for 0; other tests' are not to be."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def poisson_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "poisson"
    sizes = ["--grid", "16", "--train", "13", "--valid", "7", "--test", "5"]
    run(["generate", "--system", "poisson", "--range", "1", "5", *sizes, "--output", folder])
    return folder


@pytest.fixture(scope="session")
def train_config(tmp_path_factory, poisson_data):
    path = tmp_path_factory.mktemp("config") / "train.yaml"
    path.write_text(f"run: unset\ndata: {{path: {poisson_data}}}\noptim: {{epochs: 1}}\n")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, train_config):
    """A run folder of one process that nothing disturbed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run(["train", train_config, f"run={folder}", *TRAINING])
    return folder


def pytest_terminal_summary(terminalreporter):
    """Tell for how long tests of the clusters were under way, which is to stay under six minutes."""
    found = [one for some in terminalreporter.stats.values() for one in some if isinstance(one, pytest.TestReport)]
    reports = [one for one in found if "slurm" in one.keywords]
    called = {one.nodeid for one in reports if one.when == "call"}
    seconds, until = 0.0, 0.0
    for begun, ended in sorted((one.start, one.stop) for one in reports):  # two clusters, side by side
        seconds += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    if called:
        terminalreporter.write_line(f"cluster part: {len(called)} tests, {seconds:.0f} seconds")
