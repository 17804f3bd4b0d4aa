"""README.md tells the truth: its commands run, its tree is the tree, its links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.commands import MPIEXEC, clean_environment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]

SMALLER = {
    "configs/data/quickstart_pretrain.yaml": {"grid": 32, "train": 32, "valid": 16, "test": 16},
    "configs/data/quickstart_downstream.yaml": {"grid": 32, "train": 256, "valid": 16, "test": 16},
    "configs/pretrain/quickstart.yaml": {"optim": {"epochs": 1}, "data": {"valid_samples": 16}, "model": {"width": 4}},
    "configs/finetune/quickstart.yaml": {"optim": {"batch_size": 32}, "data": {"valid_samples": 16}},
    "configs/study/quickstart.yaml": {"steps": 2, "ratio_below": None},
}
"""The settings of quickstart in a reduced form: the commands stay as the README has them."""


def merged(document, changes):
    for key, value in changes.items():
        if isinstance(value, dict):
            merged(document[key], value)
        else:
            document[key] = value
    if document.get("model") == {"size": "1M", "width": 4}:
        document["model"] = {"width": 4, "modes": 4}
    return document


def test_the_two_commands_come_first_and_exist():
    assert COMMANDS[:2] == [["bash", "tools/quickstart.sh"], ["bash", "tools/test.sh"]]
    for _, script in COMMANDS[:2]:
        subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


@pytest.mark.slow
@pytest.mark.distributed
def test_every_other_command_runs_in_the_order_of_the_readme(tmp_path):
    for path in (ROOT / "configs").rglob("*.yaml"):
        name = str(path.relative_to(ROOT))
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        document = merged(yaml.safe_load(path.read_text()), SMALLER.get(name, {}))
        (tmp_path / name).write_text(yaml.safe_dump(document))
    environment = clean_environment()
    environment["PATH"] = f"{MPIEXEC.parent}:{environment['PATH']}"
    for words in COMMANDS[2:]:
        if words[:1] == ["."]:  # the set-up itself has tests of its own
            assert (ROOT / words[1]).exists()
            continue
        # The small model of this test has no size 16M of its own: the dial is what the command is about.
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        words = [sys.executable, "-c", f"{block}\nassert u.shape == exact.shape == (64, 64)"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
    assert (tmp_path / "runs/quickstart/study/report.html").exists()
    assert (tmp_path / "runs/mine/evaluations/mine-test.json").exists()


def test_the_tree_names_what_is_there_and_nothing_else():
    tree = re.search(r"## The tree\n\n```\n(.*?)```", README, re.DOTALL)[1].splitlines()
    rooms = {line.split()[0].rstrip("/") for line in tree if line.startswith("  ")}
    here = {p.name for p in (ROOT / "fmsci").iterdir() if not p.name.startswith("_") and p.name != "py.typed"}
    assert rooms == here
    tops = {line.split()[0].rstrip("/") for line in tree if not line.startswith(" ")}
    assert tops == {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")} - IGNORED
    assert all(len(line.split()) > 1 for line in tree if line.startswith("  "))


IGNORED = {"data", "runs", "build", "fmsci.egg-info"}


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_files_to_read_exist():
    for name in re.findall(r"`((?:fmsci|tools|configs)/[\w/.]+)`", README):
        assert (ROOT / name).exists(), name
