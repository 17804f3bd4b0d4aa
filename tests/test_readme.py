"""README.md tells the truth: its tree is the tree, its files exist (tests/test_documents.py runs its commands)."""

import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]


def test_the_two_commands_come_first_and_exist():
    assert COMMANDS[:2] == [["bash", "tools/quickstart.sh"], ["bash", "tools/test.sh"]]
    for _, script in COMMANDS[:2]:
        subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


def test_the_tree_names_what_is_there_and_nothing_else():
    tree = re.search(r"## The tree\n\n```\n(.*?)```", README, re.DOTALL)[1].splitlines()
    rooms = {line.split()[0].rstrip("/") for line in tree if line.startswith("  ")}
    here = {p.name for p in (ROOT / "fmsci").iterdir() if not p.name.startswith("_") and p.name != "py.typed"}
    assert rooms == here
    tops = {line.split()[0].rstrip("/") for line in tree if not line.startswith(" ")}
    assert tops == {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")} - IGNORED
    assert all(len(line.split()) > 1 for line in tree if line.startswith("  "))


IGNORED = {"data", "runs", "build", "fmsci.egg-info"}


def test_files_to_read_exist():
    for name in re.findall(r"`((?:fmsci|tools|configs)/[\w/.]+)`", README):
        assert (ROOT / name).exists(), name
