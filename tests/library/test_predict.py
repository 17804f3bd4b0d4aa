"""``fmsci predict``: files in, files out, errors where the truth is known."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import fmsci
from fmsci.dataset.samples import SampleSet
from fmsci.errors import UserError
from fmsci.library.predict import predict_file
from fmsci.pde import solve
from fmsci.shards.foreign import open_samples
from tests.commands import run
from tests.library.test_model import build
from tests.shards.hostile import HOSTILE, K, write


def make(path, count=3, channels=2, grid=16, **attributes):
    source = np.random.default_rng(0).normal(size=(count, grid, grid)) * 0.2
    fields = np.stack([source, solve("poisson", source, K)], axis=1)[:, :channels]
    return write(path, fields, np.tile(K, (count, 1)), **attributes)


def read(path):
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file} | {"attributes": dict(file.attrs)}


@pytest.fixture
def model(trained):
    return fmsci.load(trained / "model", "cpu")


def test_the_command_gives_what_evaluate_measures(trained, poisson_data, tmp_path):
    out = tmp_path / "deep" / "out.h5"
    said = run(["predict", trained / "model", "--input", poisson_data / "test.h5", "--output", out, "--json"])
    run(["evaluate", trained / "model", "--data", poisson_data, "--output", tmp_path / "result.json"])
    (line,) = [line for line in said.splitlines() if line.startswith("{")]
    result = json.loads(line)
    assert result["rel_l2"]["mean"] == pytest.approx(json.loads((tmp_path / "result.json").read_text())["rel_l2"])
    found = read(out)
    samples = SampleSet(poisson_data, "test").gather(np.arange(5))
    operator = fmsci.load(trained / "model", "cpu").operator
    expected = operator(samples.source, samples.coefficients).detach().numpy()
    assert np.abs(found["prediction"] - expected).max() <= 1e-6 * np.abs(expected).max()
    assert found["rel_l2"].mean() == pytest.approx(result["rel_l2"]["mean"])
    assert found["rel_l2"].argmax() == result["worst_sample"]
    assert list(found["attributes"]["columns"]) == ["k11", "k22", "k12"]
    assert f"relative L2 error over 5 samples: mean {result['rel_l2']['mean']:.4f}, " in said
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.size[0] > 1000


def test_a_file_whose_coefficients_are_no_elliptic_equation_is_refused_and_leaves_nothing(model, tmp_path):
    given = make(tmp_path / "given.h5")
    with h5py.File(given, "r+") as file:
        file["tensor"][1, 2] = 1.0
    with pytest.raises(UserError, match=r"given\.h5, samples 0 to 2: the diffusion tensor K must be positive definite"):
        predict_file(model, given, tmp_path / "out.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["given.h5"]


def test_what_is_there_is_not_written_over(trained, poisson_data, tmp_path):
    (tmp_path / "notes.h5").write_text("mine")
    words = ["predict", trained / "model", "--input", poisson_data / "test.h5", "--output", tmp_path / "notes.h5"]
    assert f"there is {tmp_path}/notes.h5 already; remove it, or give another --output" in run(words, code=2)
    assert (tmp_path / "notes.h5").read_text() == "mine"
    (tmp_path / "notes.h5").rename(tmp_path / "other.png")
    assert f"there is {tmp_path}/other.png already" in run([*words[:-1], tmp_path / "other.h5"], code=2)


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("x.png", r"^x\.png is the name of the picture too; give the result another ending, such as \.h5$"),
        (".", r"^cannot write \.: Is a directory; free or change the place and repeat$"),
        ("/", r"^cannot write /: Is a directory; free or change the place and repeat$"),
    ],
)
def test_a_place_that_cannot_hold_predictions_and_a_picture_is_refused(model, tmp_path, monkeypatch, output, sentence):
    given = make(tmp_path / "in.h5")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        predict_file(model, given, Path(output))
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5"]


def test_without_solutions_there_is_no_error(trained, tmp_path):
    given = make(tmp_path / "in.h5", channels=1)
    said = run(["predict", trained / "model", "--input", given, "--output", tmp_path / "out.h5"])
    assert "3 samples; " in said
    assert "has no solutions to measure against" in said
    assert sorted(read(tmp_path / "out.h5")) == ["attributes", "prediction"]
    assert (tmp_path / "out.png").exists()


def test_it_warns_outside_of_the_training_range(trained, tmp_path):
    given = write(tmp_path / "in.h5", np.ones((1, 1, 16, 16)) * np.sin(np.arange(16)), [[9.0, 9.0, 0.0]])
    said = run(["predict", trained / "model", "--input", given, "--output", tmp_path / "out.h5"])
    assert "fmsci: k11 = 9 (trained on 0.01" in said or "fmsci: k11 = 9, which counts as" in said


def test_another_order_of_columns_is_read_by_their_names(model, tmp_path):
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    fields = np.random.default_rng(0).normal(size=(2, 2, 16, 16))
    write(first, fields, [[0.02, 0.03, 0.004]] * 2)
    write(second, fields, [[0.004, 0.02, 0.03]] * 2, columns=["k12", "k11", "k22"])
    for path in (first, second):
        predict_file(model, path, path.with_suffix(".out.h5"))
    assert np.array_equal(read(tmp_path / "a.out.h5")["prediction"], read(tmp_path / "b.out.h5")["prediction"])


def test_a_model_of_all_six_takes_every_system(tmp_path):
    model = build(tmp_path, columns=("k11", "k22", "k12", "v1", "v2", "w"))
    fields = np.random.default_rng(0).normal(size=(2, 2, 16, 16)).astype(np.float32)
    given = write(tmp_path / "h.h5", fields, [[0.01, 3.0]] * 2, columns=["k11", "w"], system="helmholtz")
    predict_file(model, given, tmp_path / "out.h5")
    expected = model.solve(fields[:, 0], k11=0.01, k22=0.01, k12=0, v1=0, v2=0, w=3)
    assert np.allclose(read(tmp_path / "out.h5")["prediction"], expected, atol=1e-6)
    other = write(tmp_path / "o.h5", fields, [[0.01, 3.0]] * 2, columns=["k11", "w"])
    with pytest.raises(UserError, match=r"has the coefficients k11, w, but the model .* takes k11, k22, k12, v1"):
        predict_file(model, other, tmp_path / "out2.h5")


def test_many_samples_go_through_in_pieces(model, tmp_path, monkeypatch):
    given = make(tmp_path / "in.h5", count=7)
    predict_file(model, given, tmp_path / "whole.h5")
    monkeypatch.setattr("fmsci.library.predict.FIELD_BYTES", 3 * 16 * 16 * 16)
    told = []
    predict_file(model, given, tmp_path / "pieces.h5", told.append)
    assert told == [3, 6, 7]
    whole, pieces = read(tmp_path / "whole.h5"), read(tmp_path / "pieces.h5")
    assert np.allclose(whole["prediction"], pieces["prediction"], atol=1e-7)
    assert np.allclose(whole["rel_l2"], pieces["rel_l2"], rtol=1e-5)


# ------------------------------------------------------------------ mistakes and strangers' files


@pytest.mark.parametrize(
    ("make_file", "sentence"),
    [
        *(pytest.param(make_file, sentence, id=name) for name, make_file, sentence in HOSTILE),
        (
            lambda path: write(path, np.ones((2, 2, 16, 16)), np.ones((2, 2))),
            "IN has the coefficients 2 columns without",
        ),
        (
            lambda path: write(path, np.ones((2, 2, 16, 16)), np.ones((2, 3)), columns=["a", "b", "c"]),
            "IN has the coef",
        ),
        (
            lambda path: write(path, np.ones((2, 2, 6, 6)), np.ones((2, 3))),
            "IN, samples 0 to 1: a model with 4 modes needs a grid of at le",
        ),
    ],
)
def test_a_file_that_does_not_serve_is_a_sentence(model, tmp_path, make_file, sentence):
    path = tmp_path / "in.h5"
    make_file(path)
    with pytest.raises(UserError) as caught:
        predict_file(model, path, tmp_path / "out.h5")
    assert str(caught.value).replace(str(path), "IN").startswith(sentence)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.h5").exists()
    assert not list(tmp_path.glob(".aside-*"))


def test_a_split_of_a_data_folder_serves_though_it_is_virtual(poisson_data):
    assert open_samples(poisson_data / "train.h5").count == 13


def test_the_input_is_never_written_over(model, tmp_path):
    given = make(tmp_path / "in.h5")
    before = given.read_bytes()
    (tmp_path / "same.h5").symlink_to(given)
    with pytest.raises(UserError, match=r"--output is the input file .*; give another one"):
        predict_file(model, given, tmp_path / "same.h5")
    assert given.read_bytes() == before
