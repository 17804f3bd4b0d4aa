"""Start real fmsci commands, alone or on several ranks, as a user does."""

import os
import random
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.warm import warm

MPIEXEC = Path(sys.executable).parent / "mpiexec"


def clean_environment(**changes):
    """Return the environment without traces of a launcher, one thread per process."""
    dropped = ("PMI_", "OMPI_", "SLURM_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return kept | one | changes


def free_ports(count=1):
    """Return so many ports of this host that nobody listens on, nor gets by chance until they are used.

    The system gives connections of other tests ports from 32768 on, and those below 10000 may have owners.
    """
    ports = []
    with ExitStack() as held:
        while len(ports) < count:
            port = random.SystemRandom().randrange(10_000, 32_000)
            with suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return ports


WARM = {"train", "evaluate", "predict", "model", "study", "scaling", "worker"}
"""Verbs that import torch."""


def command(arguments, ranks=None):
    launcher = [] if ranks is None else [str(MPIEXEC), "-n", str(ranks)]
    return [*launcher, sys.executable, "-m", "fmsci", *map(str, arguments)]


def warm_command(arguments, ranks=None):
    """Return the same command by a Python that has imported torch already, where the verb needs it (tests/warm.py)."""
    if arguments[0] not in WARM:
        return command(arguments, ranks)
    launcher = [] if ranks is None else [str(MPIEXEC), "-n", str(ranks)]
    return [*launcher, *warm(["-m", "fmsci", *arguments], deepspeed="engine.kind=zero" in arguments)]


def run(arguments, ranks=None, code=0, cwd=None):
    """Run ``fmsci ARGUMENTS`` under so many ranks and return what it printed; its exit code must be ``code``."""
    done = subprocess.run(
        warm_command(arguments, ranks),
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr
