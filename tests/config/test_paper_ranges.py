"""configs/data/paper: the ranges of the paper, each under the name it has there."""

from pathlib import Path

import numpy as np
import pytest

from fmsci.config import GenerateSettings, load_settings
from fmsci.pde import SYSTEMS
from fmsci.shards import open_split
from tests.commands import run

ROOT = Path(__file__).parents[2]
PAPER = sorted((ROOT / "configs/data/paper").glob("*.yaml"))
SHORT = {"poisson": "poisson-scale-k", "advection_diffusion": "ad-scale-adr", "helmholtz": "helm-scale-o"}


def test_the_paper_has_five_ranges_of_each_system_and_the_files_are_named_after_them():
    settings = {path.stem: load_settings(GenerateSettings, path) for path in PAPER}
    assert len(settings) == 15
    for name, one in settings.items():
        low, high = (f"{value:g}".replace(".", "p") for value in one.range)
        assert name == f"{SHORT[one.system]}{low}_{high}"
        assert (one.grid, one.train, one.valid, one.test) == (128, 2**15, 2**12, 2**12)
        assert one.output.name == name
    for system in SYSTEMS:  # other samples, not only another range
        assert len({one.seed for one in settings.values() if one.system == system}) == 5


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_each_range_of_the_paper_can_be_made(path, tmp_path):
    run(["generate", path, "grid=32", "train=6", "valid=1", "test=1", f"output={tmp_path}"])
    settings = load_settings(GenerateSettings, path)
    fields, tensor, _ = open_split(tmp_path, "train").gather(np.arange(6))
    seen = SYSTEMS[settings.system].observe(tensor.astype(float), fields[:, 0].astype(float))
    assert settings.range[0] * (1 - 1e-5) <= seen.min()
    assert seen.max() <= settings.range[1] * (1 + 1e-5)
