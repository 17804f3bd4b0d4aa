"""Two ranks as if on two hosts: one that is killed is lost, perhaps with its node; one that ends by itself is not."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import clean_environment

RANK = """
import os, sys
import torch
from fmsci.engine import group
from fmsci.engine.collective import total
from fmsci.engine.group import process_group
from fmsci.errors import UserError
from fmsci.world import World

group.GRACE_S = 1.0
rank, port, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
device = torch.device("cpu")
try:
    with process_group(World(rank, 2, 0, 1, "srun", f"node{rank + 1}", "127.0.0.1", port), device, 30.0):
        total([1.0], device)
        if rank == 1:
            if how == "killed":
                os._exit(9)
            raise {"mistake": UserError("no room"), "bug": KeyError("a"), "broken": RuntimeError("bad")}[how]
        total([1.0], device)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("how", "kind"), [("killed", "Lost"), ("mistake", "Failure"), ("bug", "Failure"), ("broken", "Failure")]
)
def test_a_rank_that_ends_by_itself_is_not_lost_with_its_node(how, kind):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = clean_environment(PYTHONPATH=str(Path(__file__).parents[2]))
    words = [[sys.executable, "-c", RANK, str(rank), str(port), how] for rank in (0, 1)]
    ranks = [subprocess.Popen(each, env=environment, stdout=subprocess.PIPE, text=True) for each in words]
    told = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert told[0].startswith(f"{kind} no sign of life from rank 1 on node2, noticed by rank 0 on node1"), told
