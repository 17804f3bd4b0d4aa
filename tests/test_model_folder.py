"""A model folder gives back the model that was written, or says in a sentence why it cannot be one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from fmsci.errors import UserError
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture
from fmsci.model.training_range import TrainingRange
from fmsci.model_folder.reading import open_model_folder
from fmsci.model_folder.weights import load_operator, load_weights
from fmsci.model_folder.writing import write_model
from fmsci.shards import open_split

ARCHITECTURE = Architecture(in_channels=4, width=4, modes=3, layers=2)
SCALES = Scales(0.7, {"k11": 2.0, "k22": 3.0, "k12": 0.25})
WEIGHTS = "model.safetensors"


def build():
    torch.manual_seed(3)
    return SolutionOperator(ARCHITECTURE, SCALES)


@pytest.fixture
def folder(tmp_path):
    facts = {"valid_rel_l2": 0.125, "step": 40}
    write_model(tmp_path / "model", build().state_dict(), ARCHITECTURE, SCALES, {"data": "d", "init": None}, facts)
    return tmp_path / "model"


def change(folder, file, **values):
    """Set values in a JSON file of the folder; None removes the key, ``a__b`` goes inside."""
    document = json.loads((folder / file).read_text())
    for key, value in values.items():
        *sections, name = key.split("__")
        target = document
        for section in sections:
            target = target[section]
        if value is None:
            target.pop(name)
        else:
            target[name] = value
    (folder / file).write_text(json.dumps(document))


def reweigh(folder, edit):
    """Change the named weights."""
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


# ------------------------------------------------------------------ comes back


def test_the_same_outputs_come_back(folder):
    source, coefficients = torch.randn(2, 12, 12), torch.rand(2, 3) + 0.5
    again = load_operator(folder)
    assert torch.equal(again(source, coefficients), build()(source, coefficients))
    assert again.scales == SCALES


def test_a_folder_says_what_it_holds_without_its_weights(folder):
    opened = open_model_folder(folder)
    assert opened.architecture == ARCHITECTURE
    assert opened.scales == SCALES
    assert list(opened.scales.coefficients) == ["k11", "k22", "k12"]  # the order of the channels
    assert opened.config.num_parameters == sum(p.numel() for p in build().parameters())
    assert opened.config.measured == {"valid_rel_l2": 0.125, "step": 40}


def test_the_files_of_the_contract(folder):
    assert {path.name for path in folder.iterdir()} == {"config.json", WEIGHTS, "normalization.json", "README.md"}
    assert {str(tensor.dtype) for tensor in load_file(folder / WEIGHTS).values()} == {"torch.float32"}
    assert load_file(folder / WEIGHTS).keys() == build().state_dict().keys()
    card = (folder / "README.md").read_text()
    for fact in (f"{ARCHITECTURE.num_parameters:,} parameters", "k11, k22, k12", "Width 4", "valid_rel_l2: 0.125"):
        assert fact in card


def test_the_card_rounds_and_leaves_out_what_there_is_not(folder):
    weights, measured = build().state_dict(), {"valid_rel_l2": 0.123456789012, "step": 40}
    write_model(folder, weights, ARCHITECTURE, SCALES, {"samples": 7, "init": None}, measured)
    card = (folder / "README.md").read_text()
    assert "valid_rel_l2: 0.1235\n" in card
    assert "init" not in card
    assert open_model_folder(folder).config.measured == measured  # in full, for programs


def test_a_model_is_replaced_as_a_whole(folder):
    other = Architecture(in_channels=2, width=3, modes=2, layers=1)
    scales = Scales(1.0, {"a": 1.0})
    write_model(folder, SolutionOperator(other, scales).state_dict(), other, scales, {}, {})
    assert load_operator(folder).fno.architecture == other
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


# ------------------------------------------------------------------ contradictions


def wrong(folder):
    with pytest.raises(UserError) as caught:
        load_operator(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "M")


@pytest.mark.parametrize(
    ("file", "values", "sentence"),
    [
        ("config.json", {"format_version": 2}, "M/config.json has format version 2, this fmsci reads 1"),
        ("config.json", {"format_version": None}, "M/config.json has format version None, this fmsci reads 1"),
        ("config.json", {"model": "unet"}, "M/config.json: 'model' is 'unet' but should be 'fno'"),
        ("config.json", {"models": 3}, "M/config.json: unknown setting 'models' (did you mean 'model'?); allowed"),
        ("config.json", {"architecture": None}, "M/config.json: the setting 'architecture' is missing"),
        ("config.json", {"architecture": 3}, "M/config.json: 'architecture' is 3 but should be a section of settings"),
        ("config.json", {"architecture__width": "x"}, "M/config.json: 'architecture.width' is 'x' but should be"),
        ("config.json", {"architecture__width": True}, "M/config.json: 'architecture.width' is true but"),
        ("config.json", {"architecture__modes": 0}, "M/config.json: 'architecture.modes' is 0 but should be greater"),
        ("config.json", {"architecture__layers": -1}, "M/config.json: 'architecture.layers' is -1 but should be"),
        ("config.json", {"architecture__width": 5}, "M/config.json: its architecture has 1,956 parameters, not 1,261; "
         "make the model anew"),
        ("config.json", {"num_parameters": 7}, "M/config.json: its architecture has 1,261 parameters, not 7; make the"),
        ("config.json", {"coefficients": ["k11", "k12", "k22"]}, "M: config.json and normalization.json name different "
         "coefficients; make the model anew"),
        ("config.json", {"coefficients": ["k11"]}, "M: config.json and normalization.json name different coefficients"),
        ("config.json", {"architecture__in_channels": 5}, "M/config.json: 5 in_channels do not fit a source and 3 "
         "coefficients; make the model anew"),
        ("normalization.json", {"source": 0}, "M/normalization.json: 'source' is 0 but should be greater than 0"),
        ("normalization.json", {"source": None}, "M/normalization.json: the setting 'source' is missing"),
        ("normalization.json", {"source": float("nan")}, "M/normalization.json: 'source' is nan but should be"),
        ("normalization.json", {"coefficients__k22": -1}, "M/normalization.json: 'coefficients.k22' is -1 but"),
        ("normalization.json", {"coefficients__k22": True}, "M/normalization.json: 'coefficients' is {'k11': 2.0, "
         "'k22': True, 'k12': 0.25} but should not be true or false"),
        ("normalization.json", {"coefficients__k33": 1}, "M: config.json and normalization.json name different coef"),
    ],
)  # fmt: skip
def test_a_wrong_document_is_a_sentence(folder, file, values, sentence):
    change(folder, file, **values)
    assert wrong(folder).startswith(sentence)


@pytest.mark.parametrize("file", ["config.json", "normalization.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"null", b"[" * 50_000])
def test_garbage_for_a_document_is_a_sentence(folder, file, content):
    (folder / file).write_bytes(content)
    said = wrong(folder)
    assert said.startswith(f"M/{file}")
    assert any(part in said for part in ("cannot be read as JSON", "has format version None", "a mapping of keys"))


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("config.json", "M is no model folder: it has no config.json; give a folder such as RUN/model"),
        ("normalization.json", "there is no file M/normalization.json"),
        (WEIGHTS, f"there is no weights file M/{WEIGHTS}"),
    ],
)
def test_a_missing_file_is_named(folder, file, sentence):
    (folder / file).unlink()
    assert wrong(folder) == sentence


def test_a_model_needs_no_card(folder):
    (folder / "README.md").unlink()
    load_operator(folder)


def test_another_place_is_no_model_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(
            UserError, match=r"is no model folder: it has no config\.json; give a folder such as RUN/model"
        ):
            open_model_folder(path)


# ------------------------------------------------------------------ weights


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda t: t.update({"fno.other.bias": t.pop("fno.lift.bias")}), "fno.lift.bias, fno.other.bias"),
        (lambda t: t.update(extra=torch.zeros(3)), "extra"),
        (lambda t: t.update({"fno.lift.weight": t["fno.lift.weight"][:2].clone(), "pad": torch.zeros(99)}),
         "fno.lift.weight, pad"),
        (lambda t: t.update({"fno.head.outer_bias": t["fno.head.outer_bias"].double()}), "fno.head.outer_bias"),
        (lambda t: t.update({name: tensor.double() for name, tensor in t.items()}), "fno.lift.weight, fno.lift.bias, "),
    ],
    ids=["renamed", "too many", "other shape", "one of another type", "all of another type"],
)  # fmt: skip
def test_weights_of_another_model_are_named(folder, edit, named):
    reweigh(folder, edit)
    assert wrong(folder).startswith(f"M/{WEIGHTS} does not fit its architecture: {named}")


@pytest.mark.parametrize("size", [0, 7, 200, 4 * ARCHITECTURE.num_parameters - 1])
def test_truncated_weights_are_a_sentence(folder, size):
    os.truncate(folder / WEIGHTS, size)
    assert wrong(folder) == f"the weights file M/{WEIGHTS} is damaged: {size:,} bytes cannot hold 1,261 parameters"


def test_weights_that_lack_a_few_bytes_or_are_garbage_are_a_sentence(folder):
    size = (folder / WEIGHTS).stat().st_size
    os.truncate(folder / WEIGHTS, size - 1)
    assert wrong(folder).startswith(f"the weights file M/{WEIGHTS} is damaged: Error while deserializing")
    (folder / WEIGHTS).write_bytes(b"\x80\x04" + b"pickle" * size)
    assert wrong(folder).startswith(f"the weights file M/{WEIGHTS} is damaged: Error while deserializing")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    assert wrong(folder) == f"there is no weights file M/{WEIGHTS}"


def test_weights_are_refused_before_any_of_them_is_loaded(folder):
    operator = SolutionOperator(ARCHITECTURE, SCALES)
    before = {name: tensor.clone() for name, tensor in operator.state_dict().items()}
    reweigh(folder, lambda tensors: tensors.update(extra=torch.zeros(1)))
    with pytest.raises(UserError, match="does not fit its architecture: extra"):
        load_weights(operator, folder)
    assert all(torch.equal(before[name], tensor) for name, tensor in operator.state_dict().items())


# ------------------------------------------------------------------ what a stranger's folder could do

LOAD = """
import resource, sys
from pathlib import Path
from fmsci.errors import UserError
from fmsci.model_folder.weights import load_operator
try:
    load_operator(Path(sys.argv[1]))
except UserError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def load_elsewhere(folder):
    """Load in a process of its own; return what it said and the most memory that it held, in MiB."""
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True, check=True)
    *said, kibibytes = done.stdout.splitlines()
    return said, int(kibibytes) / 1024


def test_a_huge_declared_shape_allocates_nothing(folder):
    _, usual = load_elsewhere(folder)
    declared = Architecture(4, 20_000, 3, 2).num_parameters
    assert declared > 10**10
    change(folder, "config.json", architecture__width=20_000, num_parameters=declared)
    (said,), most = load_elsewhere(folder)
    assert said.endswith(f"bytes cannot hold {declared:,} parameters")
    assert most < usual + 20
    change(folder, "config.json", architecture__width=2**53)  # more digits than anyone counts
    assert wrong(folder).startswith("M/config.json: a model of width 9007199254740992 with 3 modes and 2 layers has ")
    change(folder, "config.json", architecture__width=2**53 + 1)
    assert "'architecture.width' is 9007199254740993 but should be less than" in wrong(folder)
    change(folder, "config.json", architecture__width=10**4000)
    assert "'architecture.width' is 1000" in wrong(folder)


def test_a_path_in_a_document_is_only_text(folder):
    """No setting of a model folder names a file: all are found by their names beside config.json."""
    change(folder, "config.json", trained_on__data="../../etc/passwd")
    assert open_model_folder(folder).config.trained_on["data"] == "../../etc/passwd"


@pytest.mark.parametrize("file", ["config.json", "normalization.json", WEIGHTS])
def test_a_file_that_leads_elsewhere_is_refused(folder, tmp_path, file):
    (folder / file).rename(tmp_path / "elsewhere")
    (folder / file).symlink_to(tmp_path / "elsewhere")
    assert (
        wrong(folder) == f"M/{file} is a symbolic link: a model folder holds its files themselves; copy it with cp -rL"
    )
    (folder / file).unlink()
    (folder / file).symlink_to("/dev/zero")
    assert any(part in wrong(folder) for part in ("is a symbolic link", "is no model folder"))


def test_a_folder_may_itself_be_reached_by_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    load_operator(tmp_path / "link")


@pytest.mark.parametrize("file", ["normalization.json", WEIGHTS])
def test_a_pipe_is_refused_and_not_waited_for(folder, file):
    (folder / file).unlink()
    os.mkfifo(folder / file)
    assert wrong(folder) == f"M/{file} is no file: a model folder holds plain files only; do not use this folder"


@pytest.mark.parametrize("file", ["config.json", "normalization.json"])
def test_a_huge_document_is_not_read(folder, file):
    os.truncate(folder / file, 1 << 40)  # sparse: it takes no room here
    assert wrong(folder).startswith(f"M/{file} has 1,099,511,627,776 bytes, a model's needs a few thousand; do not")


def test_huge_weights_are_not_read(folder):
    _, usual = load_elsewhere(folder)
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(folder / WEIGHTS, 8 + len(header) + (1 << 40))
    (said,), most = load_elsewhere(folder)
    assert "bytes, far more than 1,261 parameters need; do not use it" in said
    assert most < usual + 20


@pytest.mark.parametrize(
    ("file", "values", "sentence"),
    [
        ("config.json", {"architecture__layers": 10**6}, "M/config.json: 1,000,000 layers are more than the 1,000"),
        ("config.json", {"format_version": "9" * 10**5}, "M/config.json has format version 99999999999999999"),
        ("config.json", {"training_range": {}}, "M/config.json: the setting 'training_range.systems' is missing"),
        ("config.json", {"training_range__grid": 0}, "M/config.json: 'training_range.grid' is 0 but should be"),
        ("config.json", {"training_range__source_norm": [2, 1]}, "M/config.json: training_range has source_norm from"),
        ("config.json", {"training_range__source_norm": [1]}, "M/config.json: 'training_range.source_norm' is [1] but"),
        ("config.json", {"training_range__coefficients": {}}, "M/config.json: training_range names other coefficients"),
        ("config.json", {"training_range__coefficients__k11": [0, float("inf")]}, "M/config.json: 'training_range."),
        ("normalization.json", {"source": 1e300}, "M/normalization.json: source is 1e+300 but should be from 1e-30 to"),
        ("normalization.json", {"coefficients__k11": 1e-300}, "M/normalization.json: k11 is 1e-300 but should be from"),
    ],
)  # fmt: skip
def test_what_a_document_may_not_say(tmp_path, file, values, sentence):
    write_model(tmp_path / "model", build().state_dict(), ARCHITECTURE, SCALES, {}, {}, RANGE)
    change(tmp_path / "model", file, **values)
    said = wrong(tmp_path / "model")
    assert said.startswith(sentence)
    assert len(said) < 300


@pytest.mark.parametrize("name", ["../x", "a b", "k\n11", "", "x" * 99, "1k"])
def test_a_coefficient_has_a_name_to_call_it_by(folder, name):
    coefficients = {name: 2.0, "k22": 3.0, "k12": 0.25}
    change(folder, "config.json", coefficients=list(coefficients))
    change(folder, "normalization.json", coefficients=coefficients)
    assert wrong(folder).endswith("is no name of a coefficient; use letters and digits")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(folder, value):
    reweigh(folder, lambda tensors: tensors["fno.head.inner"][0].fill_(value))
    assert wrong(folder) == f"M/{WEIGHTS}: fno.head.inner is not finite; make the model anew"


# ------------------------------------------------------------------ the card and the training range

RANGE = TrainingRange(("poisson",), 16, (0.1, 0.5), {"k11": (0.01, 0.05), "k22": (0.01, 0.05), "k12": (-0.02, 0.02)})


def test_the_training_range_comes_back(folder):
    assert open_model_folder(folder).training_range is None  # folders of earlier versions say nothing of it
    write_model(folder, build().state_dict(), ARCHITECTURE, SCALES, {}, {}, RANGE)
    assert open_model_folder(folder).training_range == RANGE


def test_a_folder_of_an_earlier_version_is_read(folder):
    change(folder, "config.json", training_range=None)  # the key is not there at all
    assert "training_range" not in json.loads((folder / "config.json").read_text())
    load_operator(folder)


def test_the_card_has_the_head_that_hubs_read(folder):
    told = {"data": 'data/"odd": name\n- [x', "samples": 7}
    write_model(folder, build().state_dict(), ARCHITECTURE, SCALES, told, {"valid_rel_l2": 0.125}, RANGE)
    card = (folder / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    document = yaml.safe_load(head)
    assert document["library_name"] == "fmsci"
    assert document["tags"] == ["fourier-neural-operator", "pde", "poisson"]
    (result,) = document["model-index"][0]["results"]
    assert result["dataset"]["name"] == told["data"]
    assert result["metrics"] == [{"type": "relative-l2", "value": 0.125}]
    for part in (
        "u = model.solve(source, k11=..., k22=..., k12=...)",
        "| k11 | 0.01 | 0.05 |",
        "- grid: 16 x 16",
        "| L2 norm of the source | 0.1 | 0.5 |",
        "a grid of at least 6 x 6",
        '- data: data/"odd": name - [x',
    ):
        assert part in body  # fmt: skip


def test_a_training_run_records_what_it_saw(trained, poisson_data):
    ranges = open_model_folder(trained / "model").training_range
    fields, tensor, _ = open_split(poisson_data, "train").gather(np.arange(13))
    assert (ranges.systems, ranges.grid) == (("poisson",), 16)
    for column, (low, high) in zip(tensor.T, ranges.coefficients.values(), strict=True):
        assert (low, high) == (column.min(), column.max())
    norms = np.linalg.norm(fields[:, 0].astype(float), axis=(1, 2)) / 16
    assert ranges.source_norm == pytest.approx((norms.min(), norms.max()))
