"""A trained model solves for what users have at hand, and says in a sentence what it cannot take."""

import json
import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch

import fmsci
from fmsci.library import model as library_model
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture
from fmsci.model.training_range import TrainingRange
from fmsci.model_folder.weights import load_operator
from fmsci.model_folder.writing import write_model
from fmsci.shards import open_split
from tests.commands import run

K = {"k11": 0.02, "k22": 0.03, "k12": 0.004}


@pytest.fixture(scope="module")
def model(trained):
    return fmsci.load(trained / "model", device="cpu")


@pytest.fixture(scope="module")
def samples(poisson_data):
    fields, tensor, _ = open_split(poisson_data, "test").gather(np.arange(5))
    return fields[:, 0], tensor


def build(tmp_path, ranges=None, columns=("k11", "k22", "k12")):
    torch.manual_seed(1)
    architecture = Architecture(1 + len(columns), 4, 3, 2)
    scales = Scales(0.7, dict.fromkeys(columns, 0.02))
    weights = SolutionOperator(architecture, scales).state_dict()
    write_model(tmp_path / "model", weights, architecture, scales, {}, {}, ranges)
    return fmsci.load(tmp_path / "model", "cpu")


# ------------------------------------------------------------------ the same numbers as the operator


def test_a_batch_gives_what_the_operator_gives(model, samples, trained):
    source, tensor = samples
    u = model.solve_unwarned(source, k11=tensor[:, 0], k22=tensor[:, 1], k12=tensor[:, 2])
    expected = load_operator(trained / "model")(torch.from_numpy(source), torch.from_numpy(tensor)).detach().numpy()
    assert (u.dtype, u.shape) == (np.float32, (5, 16, 16))
    assert np.abs(u - expected).max() <= 1e-6 * np.abs(expected).max()
    assert np.abs(expected).max() > 0.01


def test_one_source_is_a_batch_of_one(model, samples):
    source, tensor = samples
    named = dict(zip(("k11", "k22", "k12"), tensor[2].tolist(), strict=True))
    alone = model.solve(source[2], **named)
    assert alone.shape == (16, 16)
    assert np.allclose(alone, model.solve(source[2:3], **named)[0], atol=1e-7)
    assert np.allclose(alone, model.solve(source, **named)[2], atol=1e-7)  # numbers serve a whole batch


def test_one_source_serves_many_coefficients(model, samples):
    source, _ = samples
    u = model.solve(source[0], k11=[0.02, 0.03], k22=0.03, k12=np.float32(0.004))
    assert u.shape == (2, 16, 16)
    for row, k11 in zip(u, (0.02, 0.03), strict=True):
        assert np.allclose(row, model.solve(source[0], **{**K, "k11": k11}), atol=1e-7)
    assert np.abs(u[0] - u[1]).max() > 1e-4


def test_columns_and_a_mapping_serve_in_place_of_names_as_in_the_exact_solver(model, samples):
    source, tensor = samples
    expected = model.solve_unwarned(source, k11=tensor[:, 0], k22=tensor[:, 1], k12=tensor[:, 2])
    assert np.array_equal(model.solve_unwarned(source, tensor), expected)
    one = list(K.values())
    for solve in (model.solve, partial(fmsci.pde.solve, "poisson")):
        assert np.array_equal(solve(source, one), solve(source, **K))
        assert np.array_equal(solve(source[0], one), solve(source[0], **K))  # (ny, nx)
        assert np.array_equal(solve(source[0], K), solve(source[0], **K))
        assert np.array_equal(solve(source, {"k11": 0.02}, k22=0.03, k12=0.004), solve(source, **K))
    assert model.outside(source, one) is None
    assert "k11 = 0.4" in model.outside(source, [0.4, 0.03, 0.0])


def test_a_tensor_comes_back_as_a_tensor(model, samples):
    source = torch.from_numpy(samples[0])
    u = model.solve(source.double().requires_grad_(), **{**K, "k11": torch.tensor(0.02)})
    assert isinstance(u, torch.Tensor)
    assert (u.dtype, u.device, u.requires_grad) == (torch.float32, source.device, False)
    assert np.allclose(u.numpy(), model.solve(samples[0], **K), atol=1e-7)


def test_lists_and_whole_numbers_serve(model):
    source = [[(x - y) % 3 - 1 for x in range(16)] for y in range(16)]
    expected = model.solve_unwarned(np.array(source, float), **K)
    assert np.array_equal(model.solve_unwarned(source, **K), expected)
    assert np.array_equal(model.solve_unwarned(torch.tensor(source), **K), expected)


@pytest.mark.parametrize("shape", [(8, 8), (24, 10), (33, 40)])
def test_any_grid_that_holds_the_modes_serves(model, shape):
    y, x = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    u = model.solve(0.3 * np.cos(2 * np.pi * x) * np.sin(2 * np.pi * y), **K)
    assert u.shape == shape
    assert np.isfinite(u).all()


def test_a_large_batch_is_solved_in_pieces(model, samples, monkeypatch):
    whole = model.solve(samples[0], **K)
    monkeypatch.setattr(library_model, "FIELD_BYTES", 2 * 4 * 4 * 16 * 16)  # two samples of this model
    sizes = []
    handle = model.operator.register_forward_hook(lambda module, given, out: sizes.append(len(out)))
    assert np.allclose(model.solve(samples[0], **K), whole, atol=1e-7)
    handle.remove()
    assert sizes == [2, 2, 1]
    assert model.solve(samples[0][:0], **K).shape == (0, 16, 16)


def test_it_can_be_compared_with_the_exact_solver_in_two_lines(model, samples, poisson_data, trained, tmp_path):
    source, tensor = samples
    named = dict(zip(("k11", "k22", "k12"), tensor.T, strict=True))
    u, exact = model.solve_unwarned(source, **named), fmsci.pde.solve("poisson", source, **named)
    error = np.linalg.norm(u - exact, axis=(1, 2)) / np.linalg.norm(exact, axis=(1, 2))
    run(["evaluate", trained / "model", "--data", poisson_data, "--output", tmp_path / "result.json"])
    assert error.mean() == pytest.approx(json.loads((tmp_path / "result.json").read_text())["rel_l2"], rel=1e-4)
    stored, _, _ = open_split(poisson_data, "test").gather(np.arange(5))
    assert np.abs(exact - stored[:, 1]).max() < 1e-5 * np.abs(exact).max()


def test_the_mean_goes_as_in_the_exact_solver(model, samples, tmp_path):
    source = samples[0][0]
    assert np.allclose(model.solve(source + 0.5, **K), model.solve(source, **K), atol=1e-5)
    ranges = TrainingRange(("helmholtz",), 16, (0.01, 10.0), {"k11": (0.01, 0.01), "w": (1.0, 10.0)})
    keeps = build(tmp_path, ranges, ("k11", "w"))
    assert np.abs(keeps.solve(source + 0.5, k11=0.01, w=3) - keeps.solve(source, k11=0.01, w=3)).max() > 1e-4


# ------------------------------------------------------------------ outside of the training range


def test_inside_the_range_nothing_is_said(model, samples):
    source, _ = samples
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.solve(source, **K)
    assert model.outside(source, **K) is None


def test_outside_it_warns_and_answers(model, samples):
    with pytest.warns(
        fmsci.TrainingRangeWarning, match=r"k11 = 0\.4 \(trained on 0\.01.* to 0\.0.*\): the model "
    ) as w:
        u = model.solve(samples[0], **{**K, "k11": 0.4})
    assert np.isfinite(u).all()
    assert w[0].filename == __file__  # the caller's line is told
    assert "k11" in model.outside(samples[0], **{**K, "k11": [0.02, 0.02, 0.4, 0.02, 0.02]})


def test_source_and_coefficients_scaled_together_are_the_same_problem(model, samples):
    source = samples[0][0]
    scaled = {name: 50 * value for name, value in K.items()}
    assert model.outside(source, **K) is None
    assert model.outside(50 * source, **scaled) is None
    assert np.allclose(model.solve(50 * source, **scaled), model.solve(source, **K), atol=1e-6)
    assert "which counts as" in model.outside(50 * source, **{**scaled, "k11": 200.0})
    assert model.outside(50 * source, **K) is not None  # weak diffusion for such a source


def test_a_folder_without_a_range_still_solves(tmp_path):
    model = build(tmp_path)
    assert model.training_range is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.solve(np.ones((16, 16)), k11=1e3, k22=1e3, k12=0).shape == (16, 16)


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"k11": 1}, "takes k11, k22, k12: k22 is missing, k12 is missing"),
        ({"k11": 1, "k22": 1, "k21": 0}, "k12 is missing, 'k21' is none of them (did you mean 'k22'?)"),
        ({**K, "w": 1}, "takes k11, k22, k12: 'w' is none of them"),
        ({**K, "k11": "a"}, "k11 should be real numbers, not str"),
        ({**K, "k11": None}, "k11 should be real numbers, not NoneType"),
        ({**K, "k11": 1j}, "k11 should be real numbers, not complex"),
        ({**K, "k11": float("nan")}, "k11 holds a value that is not finite"),
        ({**K, "k11": [1.0, 2.0]}, "k11 has 2 values but there are 5 sources; give one number, or one for each"),
        ({**K, "k11": np.ones((5, 1))}, "k11 is (5, 1) but should be a number, or one for each source"),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_wrong_coefficients_are_one_sentence_in_both_solvers(model, samples, given, sentence, exact):
    solve = partial(fmsci.pde.solve, "poisson") if exact else model.solve
    with pytest.raises(fmsci.ArgumentError) as caught:
        solve(samples[0], **given)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("system", "columns", "wrong"),
    [
        ("poisson", ("k11", "k22", "k12"), (-0.02, 0.03, 0.0)),
        ("poisson", ("k11", "k22", "k12"), (0.02, 0.03, 0.5)),
        ("poisson", ("k11", "k22", "k12"), (0.02, 0.02, 0.02)),
        ("advection_diffusion", ("k11", "k22", "k12", "v1", "v2"), (0.02, -0.02, 0.0, 0.1, 0.1)),
        ("helmholtz", ("k11", "w"), (0.0, 3.0)),
        ("poisson", fmsci.pde.NAMES, (0.02, 0.0, 0.0, 0.1, 0.1, 0.0)),  # a model of several systems
    ],
)
@pytest.mark.parametrize("told", [True, False])
def test_what_is_no_elliptic_equation_is_refused_by_both_solvers_alike(tmp_path, system, columns, wrong, told):
    """Among others that are fine, and whether or not the folder tells what its model was trained on."""
    spread = TrainingRange((system,), 16, (0.01, 10.0), dict.fromkeys(columns, (-1.0, 1.0)))
    model = build(tmp_path, spread if told else None, columns)
    fine = [0.02, 0.03, 0.0, 0.1, 0.1, 3.0] if len(columns) > 2 else [0.02, 3.0]
    source, rows = np.random.default_rng(0).normal(size=(2, 16, 16)), np.array([fine[: len(columns)], wrong])
    model.solve_unwarned(source[0], rows[0])
    of_system = rows[:, : len(fmsci.pde.SYSTEMS[system].columns)]
    said = []
    for solve, given in ((model.solve, rows), (partial(fmsci.pde.solve, system), of_system)):
        with pytest.raises(fmsci.ArgumentError) as caught:
            solve(source, given)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert said[0].startswith(
        f"the diffusion tensor K must be positive definite, k11 > 0 and k11 k22 > k12^2, not k11 = {wrong[0]:g}, "
    )


def test_coefficients_of_other_names_are_not_judged(tmp_path):
    assert build(tmp_path, columns=("a", "b")).solve(np.ones((16, 16)), a=-1.0, b=0.0).shape == (16, 16)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m, f: fmsci.load(None), "the model folder should be a path, not NoneType"),
        (lambda m, f: fmsci.load(7), "the model folder should be a path, not int"),
        (lambda m, f: fmsci.load(b"runs"), "the model folder should be a path, not bytes"),
        (lambda m, f: fmsci.load("a\0b"), "the model folder should be a path, but 'a\\x00b' holds a zero byte"),
        (lambda m, f: fmsci.load(m.path, None), "there is no device 'None' here"),
        (lambda m, f: fmsci.push(None, "lab/model"), "the model folder should be a path, not NoneType"),
        (lambda m, f: fmsci.push(m.path, None), "'None' is no name on a hub"),
        (lambda m, f: fmsci.from_hub(3), "'3' is no name on a hub"),
        (lambda m, f: fmsci.from_hub("lab/model", hub=3), "hub should be a path, not int"),
        (lambda m, f: m.solve(f, 1.0), "coefficients must be (1, 3), got (1, 1); or name them: k11, k22, k12"),
        (lambda m, f: m.solve(f, "k11"), "coefficients should be real numbers, not str"),
        (lambda m, f: m.solve(f, [0.02, 0.03, 0.0], k11=0.02), "coefficients are given twice: as an array, and k11"),
        (lambda m, f: m.solve(f, {1: 0.02}), "the model {path} takes k11, k22, k12: k11 is missing, k22 is missing"),
        (lambda m, f: m.solve(None, **K), "source should be real numbers, not NoneType"),
        (lambda m, f: m.solve(m, **K), "source should be real numbers, not Model"),
        (lambda m, f: m.solve(torch.eye(16).to_sparse(), **K), "source should be real numbers, not Tensor"),
        (lambda m, f: m.solve(torch.ones(16, 16, device="meta"), **K), "source should be real numbers, not Tensor"),
        (lambda m, f: m.solve(f, **{**K, "k11": torch.ones(1).to_sparse()}), "k11 should be real numbers, not Tensor"),
        (lambda m, f: fmsci.pde.solve(None, f, **K), "there is no system 'None'; choose poisson, "),
        (lambda m, f: fmsci.pde.solve(["poisson"], f, **K), "there is no system '['poisson']'"),
        (lambda m, f: fmsci.pde.solve("poisson", np.ones((0, 16)), **K), "source must be (ny, nx) or (B, ny, nx), got"),
    ],
)
def test_what_no_type_checker_would_let_pass_is_one_sentence_too(model, samples, call, sentence):
    with pytest.raises(fmsci.ArgumentError) as caught:
        call(model, samples[0][0])
    assert str(caught.value).startswith(sentence.format(path=model.path))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (np.ones(16), "source must be (ny, nx) or (B, ny, nx), got (16,)"),
        (np.ones((1, 1, 16, 16)), "source must be (ny, nx) or (B, ny, nx), got (1, 1, 16, 16)"),
        (np.ones((0, 16)), "source must be (ny, nx) or (B, ny, nx), got (0, 16)"),
        (np.full((16, 16), np.inf), "source holds a value that is not finite"),
        (torch.full((16, 16), np.nan), "source holds a value that is not finite"),
        (np.full((16, 16), 1e300), "source holds a value that is no float32"),
        (np.ones((16, 16), bool), "source should be real numbers, not ndarray of bool"),
        ([[1], [1, 2]], "source should be real numbers"),
        (
            np.ones((6, 16)),
            "a model with 4 modes needs a grid of at least 8 x 8, not 6 x 16; give data on a finer grid",
        ),
    ],
)
def test_a_wrong_source_is_one_sentence(model, source, sentence):
    with pytest.raises(fmsci.ArgumentError) as caught:
        model.solve(source, **K)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99", "", 3.5])
def test_a_device_that_does_not_compute_is_refused(trained, device):
    with pytest.raises(fmsci.ArgumentError, match=r"there is no device '.*' here; use auto, cpu, cuda or cuda:N"):
        fmsci.load(trained / "model", device)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("factor", "sentence"), [(1e20, "large .* coefficients down"), (1e-20, "small .* coefficients up")]
)
def test_a_source_whose_norm_is_no_float32_is_refused_also_without_a_training_range(
    tmp_path, model, count, factor, sentence
):
    source = np.ones((count, 16, 16)) * np.sin(np.arange(16))
    source[-1] *= factor
    for one in (build(tmp_path), model):
        with pytest.raises(fmsci.ArgumentError, match=rf"^source is so {sentence}$"):
            one.solve(source, **K)
    assert np.isfinite(build(tmp_path).solve(source / np.sqrt(factor), **K)).all()
    source[-1] = 0
    assert np.isfinite(build(tmp_path).solve(source, **K)).all()  # nothing at all is no small source


def test_an_answer_that_is_not_finite_is_refused(model):
    with pytest.raises(fmsci.ArgumentError, match="has no finite answer"), pytest.warns(fmsci.TrainingRangeWarning):
        model.solve(np.eye(16), k11=1e38, k22=1e38, k12=0)


# ------------------------------------------------------------------ what it costs to have it


def test_the_door_is_light_and_opens_room_by_room():
    code = """
import sys, fmsci
assert not {"torch", "numpy"} & set(sys.modules)
fmsci.pde.solve
assert "torch" not in sys.modules
fmsci.model
assert "torch" not in sys.modules
assert fmsci.model.FNO.__name__ == "FNO" and fmsci.model.from_reference
assert {"load", "pde", "from_hub"} <= set(dir(fmsci))
try:
    fmsci.lod
except AttributeError as error:
    assert "lod" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_says_what_it_is(model):
    assert "parameters, takes k11, k22, k12, on cpu" in repr(model)
    assert model.measured["valid_rel_l2"] > 0
    assert model.training_range.systems == ("poisson",)
    assert model.training_range.grid == 16
