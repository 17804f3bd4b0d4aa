"""docs/library.md tells the truth: its blocks run, in their order, and say what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.commands import clean_environment
from tests.test_documents import SMALLER, merged, not_ignored

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/library.md").read_text()
BLOCKS = re.findall(r"<!-- run -->\n```(bash|python)\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.slow
def test_every_block_runs_in_its_order(tmp_path):
    """Commands first, then all Python as one session: each block sees what those before it made."""
    name = "configs/pretrain/quickstart.yaml"
    (tmp_path / name).parent.mkdir(parents=True)
    document = merged(yaml.safe_load((ROOT / name).read_text()), SMALLER[name])
    (tmp_path / name).write_text(yaml.safe_dump(document))
    environment = clean_environment(PYTHONWARNINGS="error")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    said = ""
    for kind, content in BLOCKS:
        if kind == "bash":
            said += start(["bash", "-e", "-c", content], tmp_path, environment)
    session = "\n".join(content for kind, content in BLOCKS if kind == "python")
    said += start([sys.executable, "-c", session], tmp_path, environment)
    assert (tmp_path / "out/test.h5").exists()
    assert (tmp_path / "out/test.png").exists()
    assert not_ignored(tmp_path) == set()
    assert "takes k11, k22, k12: k22 is missing, k12 is missing, 'k21' is none of them" in said
    assert "k11 = 0.5" in said
    assert float(re.search(r"difference (\S+)", said)[1]) < 1e-5
    assert 0 < float(re.search(r"relative L2 error ([\d.]+)\n", said)[1]) < 2


def start(words, place, environment):
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_what_does_not_run_here_names_real_commands():
    others = re.findall(r"(?<!<!-- run -->\n)```bash\n(.*?)```", TEXT, re.DOTALL)
    assert [line.split()[:3] for block in others for line in block.splitlines()] == 2 * [["fmsci", "model", "import"]]
