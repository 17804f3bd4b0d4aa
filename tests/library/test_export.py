"""The exported program gives the model's answers in a process that has no fmsci."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import fmsci
from fmsci.errors import UserError
from fmsci.library.export import ABOUT, export_model
from tests.commands import clean_environment, run
from tests.library.test_model import build

ALONE = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "fmsci":
            raise ImportError("there is no fmsci here")
sys.meta_path.insert(0, Refuse())
try:
    import fmsci
    sys.exit("fmsci could be imported")
except ImportError:
    pass
import numpy as np, torch
extra = {"fmsci.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra).module()
given = np.load(sys.argv[2])
np.save(sys.argv[3], program(torch.from_numpy(given["source"]), torch.from_numpy(given["coefficients"])).numpy())
assert not any(name.split(".")[0] == "fmsci" for name in sys.modules)
print(extra["fmsci.json"])
"""


@pytest.mark.parametrize("count", [1, 5])
def test_it_runs_without_fmsci(trained, tmp_path, count):
    said = run(["model", "export", trained / "model", "--output", tmp_path / "m.pt2"])
    assert "source (B, 16, 16) and coefficients (B, K) to solution (B, 16, 16), float32" in said
    rng = np.random.default_rng(0)
    source = (0.2 * rng.normal(size=(count, 16, 16))).astype(np.float32)
    coefficients = rng.uniform(0.02, 0.03, size=(count, 3)).astype(np.float32)
    np.savez(tmp_path / "given.npz", source=source, coefficients=coefficients)
    arguments = [tmp_path / "m.pt2", tmp_path / "given.npz", tmp_path / "u.npy"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *map(str, arguments)],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    operator = fmsci.load(trained / "model", "cpu").operator
    with torch.no_grad():
        expected = operator(torch.from_numpy(source), torch.from_numpy(coefficients)).numpy()
    assert np.abs(np.load(tmp_path / "u.npy") - expected).max() <= 1e-5 * np.abs(expected).max()
    about = json.loads(done.stdout.splitlines()[-1])
    assert (about["coefficients"], about["grid"]) == (["k11", "k22", "k12"], [16, 16])


def test_another_grid_can_be_asked_for(trained, tmp_path):
    assert export_model(trained / "model", tmp_path / "m.pt2", (12, 20)) == (12, 20)
    program = torch.export.load(tmp_path / "m.pt2", extra_files={ABOUT: ""})
    source, coefficients = torch.randn(3, 12, 20), torch.rand(3, 3) * 0.01 + 0.02
    expected = fmsci.load(trained / "model", "cpu").operator(source, coefficients)
    assert torch.allclose(program.module()(source, coefficients), expected, atol=1e-5)
    dtypes = {node.meta["val"].dtype for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)}
    assert not any(dtype.is_complex for dtype in dtypes)


def test_a_folder_that_does_not_tell_its_grid_needs_one(tmp_path):
    build(tmp_path)
    with pytest.raises(UserError, match="does not tell the grid it was trained on; give one with --grid NY NX"):
        export_model(tmp_path / "model", tmp_path / "m.pt2")
    with pytest.raises(UserError, match="needs a grid of at least 6 x 6, not 4 x 8"):
        export_model(tmp_path / "model", tmp_path / "m.pt2", (4, 8))
    assert not (tmp_path / "m.pt2").exists()
