"""The first commands of docs/slurm.md, on a real cluster, as they stand there."""

import re
import shlex
import shutil

import pytest
import yaml

from tests.test_documents import ROOT, SMALLER, blocks, merged

SMALL = {name: SMALLER[name] for name in ("configs/data/quickstart_pretrain.yaml", "configs/pretrain/quickstart.yaml")}


@pytest.mark.slurm
@pytest.mark.xdist_group("slurm")
def test_from_nothing_to_a_job_on_two_nodes(cluster, monkeypatch):
    """On the login node, with the site of this cluster, in a checkout whose configurations ask for little."""
    mark, _, text = blocks(ROOT / "docs" / "slurm.md")[0]
    assert mark == "tested by: tests/cluster/test_slurm_page.py"
    place = cluster.folder / "checkout"
    shutil.copytree(ROOT / "slurm", place / "slurm")
    shutil.copytree(ROOT / "configs", place / "configs")
    for name, changes in SMALL.items():
        document = merged(yaml.safe_load((ROOT / name).read_text()), changes)
        (place / name).write_text(yaml.safe_dump(document))
    monkeypatch.setattr(cluster, "folder", place)
    setup, *lines = [line.partition("#")[0].split("&&")[0] for line in text.splitlines()]
    assert setup.split() == ["bash", "tools/setup.sh"]  # this checkout has had it
    said = ""
    for line in lines:
        words = shlex.split(line)
        site = ["--site", "local"] if words[:2] == ["fmsci", "submit"] else []
        said = cluster.login(*words, *site)
        for job in re.findall(r"^job (\d+): ", said, re.MULTILINE):
            assert cluster.ended(job) == "COMPLETED", said
    assert "BAD" not in said
    row = next(line for line in said.splitlines() if "runs/quickstart/pretrain" in line)
    assert re.search(r"finished +│ +2 of 2 ", row)
