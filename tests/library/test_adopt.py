"""The paper's checkpoint becomes a model folder with the same answers; a stranger's file runs nothing."""

import pickle
import zipfile

import numpy as np
import pytest
import torch

import fmsci
from fmsci.errors import UserError
from fmsci.library.adopt import adopt_checkpoint, read_checkpoint, read_scales
from fmsci.model.scales import Scales
from tests.commands import run
from tests.model.test_reference import Plain

SCALES = [0.003, 0.02, 0.03, 0.005, 0.4, 1.0, 1.0]
"""As the paper's file has them: source, k11, k22, k12, solution, lx, ly."""


SCALED = Scales(1.0, dict.fromkeys("abc", 1.0))


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return Plain(4, 6, 5, 4)


def save(path, plain, prefix="module.", **changes):
    """Write a checkpoint as the paper's code does, with its optimizer and its schedule."""
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    plain(torch.randn(1, 4, 12, 12)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=500)
    document = {
        "iters": 1280,
        "epoch": 9,
        "model_state": {prefix + name: tensor for name, tensor in plain.state_dict().items()},
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": schedule.state_dict(),
    }
    torch.save(document | changes, path)
    return path


def papers_input(source, tensor, scales):
    """The input channels as the paper's code makes them, sample by sample, its norms over the grid and all."""
    n = source.shape[-1]
    rows = []
    for f, row in zip(source, tensor, strict=True):
        channels = np.concatenate([f[None], np.ones((3, n, n)) * row[:, None, None]])
        channels /= np.linalg.norm(f) / n / n / scales[0]
        channels[1:] /= np.array(scales[1:4])[:, None, None]
        rows.append(channels)
    return torch.from_numpy(np.stack(rows)).float()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_answers_are_those_of_the_papers_code(plain, tmp_path, prefix):
    np.save(tmp_path / "s.npy", SCALES)
    checkpoint = save(tmp_path / "ckpt.tar", plain, prefix)
    arguments = ["--system", "poisson", "--scales", tmp_path / "s.npy", "--grid", "16", "--output", tmp_path / "model"]
    said = run(["model", "import", checkpoint, *arguments])
    assert f"next: fmsci evaluate {tmp_path / 'model'} --data DATA" in said
    rng = np.random.default_rng(0)
    source, tensor = rng.normal(size=(3, 16, 16)), rng.uniform(0.01, 0.05, size=(3, 3))
    with torch.no_grad():
        expected = plain(papers_input(source, tensor, SCALES))[:, 0].numpy()
    model = fmsci.load(tmp_path / "model", "cpu")
    u = model.solve(source, k11=tensor[:, 0], k22=tensor[:, 1], k12=tensor[:, 2])
    assert np.abs(u - expected).max() <= 2e-5 * np.abs(expected).max()
    assert model.training_range is None
    card = (tmp_path / "model" / "README.md").read_text()
    assert "- epochs: 10\n- steps: 1280\n- converted_from: ckpt.tar\n" in card
    assert "Nothing yet: `fmsci evaluate` measures the errors." in card


def test_the_training_data_give_scales_and_range(plain, tmp_path, poisson_data):
    checkpoint = save(tmp_path / "ckpt.tar", plain)
    said = run(
        ["model", "import", checkpoint, "--system=poisson", "--data", poisson_data, "--output", tmp_path / "model"]
    )
    assert f"--data {poisson_data}" in said
    model = fmsci.load(tmp_path / "model", "cpu")
    assert model.training_range.systems == ("poisson",)
    run(["evaluate", tmp_path / "model", "--data", poisson_data])


def test_hidden_files_of_a_folder_are_not_lost(plain, tmp_path):
    checkpoint, model = save(tmp_path / "ckpt.tar", plain), tmp_path / "model"
    (model / ".git").mkdir(parents=True)
    (model / ".aside-left-over").mkdir()
    for _ in range(2):
        with pytest.raises(UserError, match=r"model is no new folder: it holds \.git; give another output folder$"):
            adopt_checkpoint(checkpoint, model, "poisson", SCALED, "d")
    (model / ".git").rmdir()
    adopt_checkpoint(checkpoint, model, "poisson", SCALED, "d")
    adopt_checkpoint(checkpoint, model, "poisson", SCALED, "d")  # in place of the model that was there


def adopt(checkpoint, tmp_path, system="poisson"):
    with pytest.raises(UserError) as caught:
        adopt_checkpoint(checkpoint, tmp_path / "model", system, SCALED, "d")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()
    return str(caught.value).replace(str(checkpoint), "CKPT")


class Shout:
    """What a pickle could do: leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle"])
def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(plain, tmp_path, how):
    checkpoint, trace = tmp_path / "ckpt.tar", tmp_path / "trace"
    document = {"model_state": plain.state_dict(), "more": Shout(trace)}
    if how == "bare pickle":
        checkpoint.write_bytes(pickle.dumps(document["more"]))
    else:
        torch.save(document, checkpoint, _use_new_zipfile_serialization=how == "zip")
    assert adopt(checkpoint, tmp_path).startswith("CKPT is no checkpoint that can be read without running its code: ")
    assert not trace.exists()


def spread(state):
    """One number, declared as a large matrix: what it unpacks to is not in the file."""
    return {**state, "fc0.weight": torch.zeros(1, 1).expand(10**6, 10**6)}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (lambda s: {"model_state": None}, "CKPT has no weights under 'model_state'"),
        (lambda s: {"model_state": {}}, "CKPT has no weights under 'model_state'"),
        (lambda s: {"model_state": {**s, "more": 3}}, "CKPT: 'model_state' holds more than named tensors"),
        (lambda s: {"model_state": {**s, 3: s["fc0.bias"]}}, "CKPT: 'model_state' holds more than named tensors"),
        (lambda s: {"model_state": spread(s)}, "CKPT declares more weights than its "),
        (
            lambda s: {"model_state": {"fc9.weight": s["fc0.bias"]}},
            "these are no weights of the paper's Fourier neural",
        ),
        (
            lambda s: {"model_state": {**s, "fc0.bias": s["fc0.bias"] * np.nan}},
            "CKPT: the weights fno.lift.bias are not",
        ),
        (
            lambda s: {"model_state": {**s, "fc0.bias": s["fc0.bias"].to(torch.complex64)}},
            "CKPT: 'model_state' holds ot",
        ),
        (lambda s: {"model_state": {**s, "fc0.bias": s["fc0.bias"].to_sparse()}}, "CKPT"),
    ],
)
def test_a_checkpoint_of_another_kind_is_a_sentence(plain, tmp_path, changes, sentence):
    state = plain.state_dict()
    assert adopt(save(tmp_path / "ckpt.tar", plain, **changes(state)), tmp_path).startswith(sentence)


def test_files_that_are_no_checkpoint_are_a_sentence(plain, tmp_path):
    path = tmp_path / "ckpt.tar"
    assert adopt(path, tmp_path) == "there is no file CKPT; give a checkpoint of the paper's code, such as ckpt.tar"
    for content in (b"", b"x" * 999, b"PK\x03\x04" + b"x" * 99, b"\x80\x02."):
        path.write_bytes(content)
        assert adopt(path, tmp_path).startswith("CKPT is no checkpoint that can be read without running its code")
    whole = save(path, plain).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert adopt(path, tmp_path).startswith("CKPT is no checkpoint that can be read")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(10**8))
    assert adopt(path, tmp_path).startswith("CKPT unpacks to 100,000,000 bytes, far more than it has")
    torch.save([1, 2], path)
    assert adopt(path, tmp_path).startswith("CKPT has no weights under 'model_state'")


def test_another_system_has_other_channels(plain, tmp_path):
    checkpoint = save(tmp_path / "ckpt.tar", plain)
    assert adopt(checkpoint, tmp_path, "helmholtz") == (
        "CKPT takes 4 channels, but helmholtz has a source and 2 coefficients: k11, w"
    )


def test_how_long_it_was_trained_is_optional(plain, tmp_path):
    _, facts = read_checkpoint(save(tmp_path / "a.tar", plain, epoch="many", iters=-3))
    assert facts == {}


def test_a_taken_folder_stays_as_it_is(plain, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").touch()
    with pytest.raises(UserError, match=r"is no new folder: it holds thesis\.txt; give another output folder"):
        adopt_checkpoint(save(tmp_path / "c", plain), tmp_path / "model", "poisson", Scales(1.0, {}), "d")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (SCALES[:-1], "S has the shape (6,) but poisson has 7 scales: the source, k11, k22, k12, the solution, and"),
        ([SCALES], "S has the shape (1, 7) but poisson has 7 scales"),
        (3.0, "S has the shape () but poisson has 7 scales"),
        ([0.0, *SCALES[1:]], "S holds scales that are not finite and positive"),
        ([np.nan, *SCALES[1:]], "S holds scales that are not finite and positive"),
        ([-1.0, *SCALES[1:]], "S holds scales that are not finite and positive"),
        ([*SCALES[:-1], 2.0], "S is of a domain of 1 x 2, fmsci has the unit square"),
        (np.ones(10**5), "S has 800,128 bytes but should hold 7 numbers"),
        (np.array(["a"] * 7), "S cannot be read as numbers"),
    ],
)
def test_scales_that_do_not_fit_are_a_sentence(tmp_path, values, sentence):
    np.save(tmp_path / "s.npy", values)
    with pytest.raises(UserError) as caught:
        read_scales(tmp_path / "s.npy", "poisson", 128)
    assert str(caught.value).replace(str(tmp_path / "s.npy"), "S").startswith(sentence)


def test_scales_with_code_in_them_are_refused_and_not_run(tmp_path):
    trace = tmp_path / "trace"
    np.save(tmp_path / "s.npy", np.array([Shout(trace)], object), allow_pickle=True)
    for content in ((tmp_path / "s.npy").read_bytes(), pickle.dumps(Shout(trace)), b"", b"PK\x03\x04"):
        (tmp_path / "s.npy").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as numbers"):
            read_scales(tmp_path / "s.npy", "poisson", 128)
    assert not trace.exists()


def test_a_scale_of_zero_counts_as_one(tmp_path):
    np.save(tmp_path / "s.npy", [0.5, 0.0, 0.03, 0.005, 0.4, 1.0, 1.0])
    assert read_scales(tmp_path / "s.npy", "poisson", 64) == Scales(32.0, {"k11": 1.0, "k22": 0.03, "k12": 0.005})
