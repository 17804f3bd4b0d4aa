"""Run several ``fmsci`` commands one after the other on the same ranks, each in processes of its own.

``mpiexec -n N python -m tests.train.several FOLDER JSON`` where JSON is a list of cases, and that python has imported
torch and DeepSpeed already (tests/warm.py): every command is a fork of it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.commands import MPIEXEC, clean_environment, free_ports
from tests.warm import warm

ROOT = Path(__file__).parents[2]


@dataclass
class Case:
    """A command; the step after which the last rank gets a TERM; from where to where it is copied when it has ended."""

    arguments: list
    term: int | None = None
    copy: tuple[str, str] | None = None
    port: int | None = None
    """Each meets at a port of its own, on which the one before cannot still be listening."""


def several(ranks, cases, folder):
    """Run the cases on so many ranks; return the exit codes of the ranks and what was printed, for each."""
    folder.mkdir()
    described = [
        {
            "arguments": [str(word) for word in case.arguments],
            "term": case.term,
            "copy": case.copy and [*map(str, case.copy)],
            "port": port,
        }
        for case, port in zip(cases, free_ports(len(cases)), strict=True)
    ]
    done = subprocess.run(
        [
            str(MPIEXEC),
            "-n",
            str(ranks),
            *warm(["-m", "tests.train.several", folder, json.dumps(described)], deepspeed=True),
        ],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = []
    for number in range(len(cases)):
        codes = [int((folder / f"{number}-{rank}.code").read_text()) for rank in range(ranks)]
        found.append((codes, "".join((folder / f"{number}-{rank}.log").read_text() for rank in range(ranks))))
    return found


def run_case(case, log):
    """Be the command; end with its exit code."""
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.environ["MASTER_PORT"] = str(case.port)
    from fmsci.cli import main
    from fmsci.train.state import State

    advance, last = State.advance, int(os.environ["PMI_RANK"]) == int(os.environ["PMI_SIZE"]) - 1

    def advanced(self, num_samples):
        advance(self, num_samples)
        if last and self.step == case.term:
            os.kill(os.getpid(), signal.SIGTERM)

    State.advance = advanced
    main(case.arguments)


def main(folder, cases):
    rank = int(os.environ["PMI_RANK"])
    for number, described in enumerate(json.loads(cases)):
        case = Case(**described)
        child = os.fork()
        if not child:
            code = 99
            try:
                run_case(case, Path(folder) / f"{number}-{rank}.log")
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        (Path(folder) / f"{number}-{rank}.code").write_text(str(code))
        if rank == 0 and case.copy is not None:
            shutil.copytree(*case.copy)


if __name__ == "__main__":
    main(*sys.argv[1:])
