"""A model folder gives back the model that was written, or says in a sentence why it cannot be one."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fmsci.errors import UserError
from fmsci.model.operator import Scales, SolutionOperator
from fmsci.model.sizes import Architecture
from fmsci.model_folder import load_operator, load_weights, open_model_folder, write_model

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
from fmsci.model_folder import load_operator
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
    assert wrong(folder).endswith(f" parameters, not {declared:,}; make the model anew")
    change(folder, "config.json", architecture__width=2**53 + 1)
    assert "'architecture.width' is 9007199254740993 but should be less than" in wrong(folder)
    change(folder, "config.json", architecture__width=10**4000)
    assert "'architecture.width' is 1000" in wrong(folder)


def test_a_path_in_a_document_is_only_text(folder):
    """No setting of a model folder names a file: all are found by their names beside config.json."""
    change(folder, "config.json", trained_on__data="../../etc/passwd")
    assert open_model_folder(folder).config.trained_on["data"] == "../../etc/passwd"
