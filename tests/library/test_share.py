"""A model goes to a folder that serves as hub and comes back, as four checked files and nothing else."""

import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import fmsci
from fmsci.errors import UserError
from tests.commands import run

FILES = ["README.md", "config.json", "model.safetensors", "normalization.json"]
K = {"k11": 0.02, "k22": 0.03, "k12": 0.004}


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained / "model", tmp_path / "model")
    (tmp_path / "hub").mkdir()
    return tmp_path / "model"


def test_there_and_back(folder, tmp_path):
    (folder / "notes.txt").write_text("mine alone")
    said = run(["model", "push", folder, "lab/poisson-1", "--hub", tmp_path / "hub"])
    place = tmp_path / "hub/lab/poisson-1"
    assert f"is at {place}" in said
    assert sorted(path.name for path in place.iterdir()) == FILES
    again = fmsci.from_hub("lab/poisson-1", hub=tmp_path / "hub", device="cpu")
    source = 0.2 * np.random.default_rng(0).normal(size=(16, 16))
    assert np.array_equal(
        again.solve_unwarned(source, **K), fmsci.load(folder, device="cpu").solve_unwarned(source, **K)
    )


def test_a_second_push_replaces_the_first(folder, tmp_path):
    for text in ("first", "second"):
        (folder / "README.md").write_text(text)
        fmsci.push(folder, "lab/x", tmp_path / "hub")
    assert (tmp_path / "hub/lab/x/README.md").read_text() == "second"
    assert [path.name for path in (tmp_path / "hub/lab").iterdir()] == ["x"]


@pytest.mark.parametrize("held", [".git", "notes.txt"])
def test_a_push_loses_nothing_else_that_lies_there(folder, tmp_path, held):
    (tmp_path / "hub/lab/x").mkdir(parents=True)
    (tmp_path / "hub/lab/x" / held).write_text("mine")
    with pytest.raises(UserError, match=f"lab/x is no new folder: it holds {held}; give another name"):
        fmsci.push(folder, "lab/x", tmp_path / "hub")
    assert [path.name for path in (tmp_path / "hub/lab/x").iterdir()] == [held]


@pytest.mark.parametrize(
    "name", ["x", "../x", "a/../../b", "/etc/passwd", "a/b/c", "a/..", "", "a b/c", "a/b\n", ".a/b"]
)
def test_a_name_never_leads_out_of_the_hub(folder, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    for call in (lambda: fmsci.push(folder, name, tmp_path / "hub"), lambda: fmsci.from_hub(name, tmp_path / "hub")):
        with pytest.raises(fmsci.ArgumentError, match="is no name on a hub; write OWNER/NAME"):
            call()
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_damaged_or_leads_elsewhere_is_not_published(folder, tmp_path):
    os.truncate(folder / "model.safetensors", 100)
    with pytest.raises(UserError, match="is damaged"):
        fmsci.push(folder, "lab/x", tmp_path / "hub")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match=r"README\.md is a symbolic link: a model folder holds its files themselves"):
        fmsci.push(folder, "lab/x", tmp_path / "hub")
    assert list((tmp_path / "hub").iterdir()) == []


def test_a_model_without_a_card_is_not_published(folder, tmp_path):
    (folder / "README.md").unlink()
    with pytest.raises(UserError, match=r"has no card README\.md: say there what the model is"):
        fmsci.push(folder, "lab/x", tmp_path / "hub")


def test_what_is_not_there_is_a_sentence(folder, tmp_path):
    with pytest.raises(UserError, match=r"is no model folder: it has no config\.json"):
        fmsci.from_hub("lab/none", tmp_path / "hub")
    with pytest.raises(UserError, match=r"there is no folder .*none to serve as hub"):
        fmsci.from_hub("lab/none", tmp_path / "none")
    with pytest.raises(fmsci.ArgumentError, match="has no revisions"):
        fmsci.from_hub("lab/none", tmp_path / "hub", revision="main")


class RefusedError(Exception):
    """What the hub's client raises where the hub says no: it has the answer."""

    response = types.SimpleNamespace(status_code=404)


class StandIn:
    """The Hugging Face Hub by the calls of its client that there are; ``snapshot_download`` is as lax as the real one,
    which returns what lies in ``local_dir`` where nobody answers."""

    def __init__(self, folders):
        self.folders, self.revisions, self.online = folders, {}, True

    def model_info(self, repo_id, revision):
        if not self.online:
            raise ConnectionError("no route to the hub")
        if revision not in self.revisions and revision not in self.revisions.values():
            raise RefusedError(f"404: there is no revision {revision}")
        return types.SimpleNamespace(sha=self.revisions.get(revision, revision))

    def snapshot_download(self, repo_id, revision, local_dir, allow_patterns):
        if self.online:
            shutil.copytree(
                self.folders[self.revisions.get(revision or "main", revision)], local_dir, dirs_exist_ok=True
            )
        elif not Path(local_dir).exists():
            raise ConnectionError("no route to the hub")


@pytest.fixture
def face(folder, tmp_path, monkeypatch):
    """The stand-in, with a model whose card says 1 at the tag v1 and 2 at v2 and main."""
    folders = {}
    for number in "12":
        (folder / "README.md").write_text(number)
        folders[number * 40] = shutil.copytree(folder, tmp_path / f"commit-{number}")
    face = StandIn(folders)
    face.revisions = {"v1": "1" * 40, "v2": "2" * 40, "main": "2" * 40}
    package, constants = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.constants")
    package.HfApi, constants.HF_HOME = lambda: face, str(tmp_path / "home")
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    return face


def card(revision=None):
    return (fmsci.from_hub("lab/x", device="cpu", revision=revision).path / "README.md").read_text()


def test_each_revision_is_its_own_also_where_the_hub_cannot_be_reached(face):
    assert (card("v1"), card("v2"), card()) == ("1", "2", "2")
    face.online = False
    assert (card("v1"), card("v2"), card(), card("1" * 40)) == ("1", "2", "2", "1")


def test_offline_no_revision_stands_for_another(face, tmp_path):
    assert card("v1") == "1"
    face.online = False
    for revision in (None, "v2", "2" * 40):
        with pytest.raises(UserError, match=r"lab/x: no route to the hub; its revision \w+ was not fetched before$"):
            card(revision)
    commits = tmp_path / "home/fmsci/lab/x/commits.json"
    for damaged in ("", "[]", '{"v1": "../../elsewhere"}', '{"v1": 3}'):
        commits.write_text(damaged)
        with pytest.raises(UserError, match=r"its revision v1 was not fetched before"):
            card("v1")


def test_a_branch_is_what_the_hub_says_now(face):
    assert card() == "2"
    face.revisions["main"] = "1" * 40
    assert card() == "1"
    face.online = False
    assert card() == "1"


def test_what_the_hub_refuses_is_not_taken_from_an_earlier_fetch(face):
    assert card("v1") == "1"
    del face.revisions["v1"]
    with pytest.raises(UserError, match=r"^the hub gives no access to lab/x: 404: there is no revision v1$"):
        card("v1")
    face.revisions["v1"] = "../../elsewhere"
    with pytest.raises(UserError, match=r"the hub names no commit for the revision v1 of lab/x"):
        card("v1")


def test_without_the_extra_the_hub_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: fmsci.push(folder, "lab/x"), lambda: fmsci.from_hub("lab/x")):
        with pytest.raises(UserError, match=r"the Hugging Face Hub needs one more package: pip install 'fmsci\[hub\]'"):
            call()
