"""What a process computes with."""

import subprocess

from tests.commands import clean_environment
from tests.warm import warm

SMALL = """
import torch
from fmsci.engine.device import set_threads
from fmsci.world import World

assert (torch.full((4,), 1e-30) * 1e-10).all()
set_threads(2, World())
numbers = torch.full((1 << 20,), 1e-30)  # enough for both threads
product, moment = numbers * 1e-10, torch.zeros_like(numbers).add_(numbers, alpha=1e-10)
print(torch.get_num_threads(), int(product.count_nonzero()), int(moment.count_nonzero()))
"""


def test_numbers_that_cores_are_slow_with_count_as_zero_in_every_thread():
    """A model that died of its learning rate has little else; a step took fifty times longer."""
    done = subprocess.run(warm(["-c", SMALL]), env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.stdout == "2 0 0\n", done.stderr


def test_a_worker_takes_them_for_zero_before_its_first_command():
    """A command that does not train may start the threads of those that do."""
    script = "import io, sys, torch; sys.stdin = io.StringIO(); from fmsci.cli.worker import worker; worker(); "
    script += "print(int((torch.full((4,), 1e-30) * 1e-10).count_nonzero()), file=sys.stderr)"
    done = subprocess.run(warm(["-c", script]), env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.stderr == "0\n", done.stdout
