"""A small mixture of all three systems, and what trains on it."""

import pytest
import yaml

from tests.commands import run
from tests.conftest import TRAINING


@pytest.fixture(scope="session")
def three_systems(tmp_path_factory, poisson_data):
    """Folders of 13, 10 and 8 training samples, by system."""
    parent = tmp_path_factory.mktemp("systems")
    folders = {"poisson": poisson_data}
    for system, low, high, train in (("advection_diffusion", 0.2, 1, 10), ("helmholtz", 1, 10, 8)):
        folders[system] = parent / system
        sizes = ["--grid", 16, "--train", train, "--valid", 3, "--test", 2]
        run(["generate", "--system", system, "--range", low, high, *sizes, "--output", parent / system])
    return folders


@pytest.fixture(scope="session")
def mixture_config(tmp_path_factory, three_systems):
    """31 samples with weights 2 : 1 : 1, so 15, 8 and 8 of them an epoch."""
    path = tmp_path_factory.mktemp("config") / "mixture.yaml"
    parts = [
        {"path": str(folder), "weight": 2 if system == "poisson" else 1} for system, folder in three_systems.items()
    ]
    path.write_text(yaml.safe_dump({"run": "unset", "data": {"mixture": parts}, "optim": {"epochs": 1}}))
    return path


@pytest.fixture(scope="session")
def mixed(tmp_path_factory, mixture_config):
    """A run folder of one process that trained on the mixture."""
    folder = tmp_path_factory.mktemp("mixed") / "run"
    run(["train", mixture_config, f"run={folder}", *TRAINING, "optim.epochs=3"])
    return folder
