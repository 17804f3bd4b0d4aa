"""What a new user does with a range of their own, SYS-1(1, 2.5). A slip at each step is a sentence and leaves nothing.

Generate, train, fine-tune on a shifted range, evaluate, predict in Python.
"""

import json
import subprocess

import numpy as np
import pytest

import fmsci
from fmsci.shards import open_split
from tests.commands import clean_environment, command

TRAIN = """
run: runs/first
data: {path: data/mine}
model: {width: 4, modes: 4, layers: 2}
optim: {epochs: 8, batch_size: 8, lr: 1.0e-2}
monitor: {pictures: false}
engine: {threads: 1}
"""
SIZES = ["--grid", 16, "--train", 32, "--valid", 4, "--test", 4]


def everything(place):
    return {path: path.read_bytes() if path.is_file() else None for path in place.rglob("*")}


@pytest.fixture
def at(tmp_path):
    """Return what runs a command in a folder of one's own; a slip must be one sentence that has these words."""

    def fmsci(*words, slip=None):
        before = everything(tmp_path) if slip else {}
        done = subprocess.run(
            command(words),
            cwd=tmp_path,
            env=clean_environment(PYTHONWARNINGS="error"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (2 if slip else 0), done.stdout + done.stderr
        if slip:
            (sentence,) = done.stderr.splitlines()
            assert sentence.startswith("fmsci: ")
            assert slip in sentence
            assert everything(tmp_path) == before, "a mistake left something behind"
        return done.stdout

    fmsci.place = tmp_path
    return fmsci


@pytest.mark.slow
def test_from_a_range_of_ones_own_to_predictions(at, monkeypatch):
    generate = ["generate", "--system", "poisson", *SIZES]
    at(*generate, "--range", 2.5, 1, "--output", "data/mine", slip="range")
    at(*generate, "--range", 1, 2.5, "--output", "data/mine")
    at(*generate, "--range", 2.5, 5, "--output", "data/shifted")

    (at.place / "train.yaml").write_text(TRAIN)
    at("train", "train.yaml", "optim.epoch=3", slip="did you mean 'epochs'?")
    at("train", "train.yaml")
    assert json.loads((at.place / "runs/first/result.json").read_text())["best"]["valid_rel_l2"] < 1

    shifted = ["train", "train.yaml", "run=runs/tuned", "data.path=data/shifted", "model={}", "optim.epochs=2"]
    at(*shifted, "init=runs/first", slip="is no model folder: it has no config.json; give a folder such as RUN/model")
    at(*shifted, "init=runs/first/model")

    at("evaluate", "runs/tuned/model", "--data", "data/shifed", slip="data/shifed is no data folder")
    at("evaluate", "runs/tuned/model", "--data", "data/shifted")
    said = json.loads((at.place / "runs/tuned/evaluations/shifted-test.json").read_text())

    monkeypatch.chdir(at.place)
    model = fmsci.load("runs/tuned/model", "cpu")
    reader = open_split(at.place / "data/shifted", "test")
    fields, tensor, _ = reader.gather(np.arange(4))
    known = dict(zip(("k11", "k22", "k12"), tensor.T, strict=True))
    with pytest.raises(ValueError, match="takes k11, k22, k12: k12 is missing, 'k21' is none of them"):
        model.solve(fields[:, 0], k11=known["k11"], k22=known["k22"], k21=known["k12"])
    predicted = model.solve(fields[:, 0], **known)
    norms = np.linalg.norm(predicted - fields[:, 1], axis=(1, 2)) / np.linalg.norm(fields[:, 1], axis=(1, 2))
    assert norms.mean() == pytest.approx(said["rel_l2"], rel=1e-4)
    exact = fmsci.pde.solve("poisson", fields[:, 0], **known)
    assert np.allclose(exact, fields[:, 1], rtol=0, atol=1e-5 * np.abs(exact).max())
