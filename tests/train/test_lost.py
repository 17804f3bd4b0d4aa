"""A rank that is lost, perhaps with its node, before the run has begun: its job script has to hear of it."""

import json
import subprocess

import pytest

from tests.commands import clean_environment, free_ports
from tests.conftest import TRAINING
from tests.warm import warm

RANK = """
import os, sys
from fmsci.engine import group
group.GRACE_S = 1.0
import fmsci.train.run as run
if os.environ["RANK"] == "1":
    run.build_job = lambda *given: os._exit(9)
from fmsci.cli import main
main(sys.argv[1:])
"""
"""Rank 1 is gone while the others build their model: rank 0 waits for it before it takes the folder."""


@pytest.mark.distributed
@pytest.mark.parametrize(("hosts", "prepared", "told"), [(2, True, "lost"), (1, True, None), (2, False, None)])
def test_a_rank_lost_before_the_run_began_is_told_where_a_job_script_made_the_folder(
    train_config, tmp_path, hosts, prepared, told
):
    folder = tmp_path / "run"
    if prepared:
        folder.mkdir()
    (port,) = free_ports()
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": str(2 // hosts), "MASTER_ADDR": "127.0.0.1"}
    words = warm(["-c", RANK, "train", train_config, f"run={folder}", *TRAINING])
    ranks = [
        subprocess.Popen(
            words,
            env=clean_environment(
                **common, RANK=str(rank), LOCAL_RANK=str(0 if hosts == 2 else rank), MASTER_PORT=str(port)
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [rank.communicate(timeout=90)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 9], printed
    assert "no sign of life from rank 1 on " in printed[0]
    path = folder / "outcome.json"
    assert (json.loads(path.read_text())["status"] if path.exists() else None) == told
    assert not (folder / "config.yaml").exists()
    assert folder.exists() == prepared
