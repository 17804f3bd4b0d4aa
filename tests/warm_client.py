"""``python -S warm_client.py SOCKET WORDS``: stands for the process that the warm Python forks for it.

It lends its variables, folder and streams, passes on every signal, ends as the other one does, and takes it along when
it is killed. It imports next to nothing: its start is a fiftieth of torch's.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress

LAUNCHERS = ("PMI_", "MPI_", "HYDI_", "MPIR_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "PYTEST_", "GFORTRAN_", "DS_")
LAUNCHERS += ("PATH", "PWD", "OLDPWD", "SHLVL", "_")
"""Variables of one command; what is imported beforehand does not read them."""


def same_for_all(environment, added):
    """Return the variables that an import may have read; not those that it has ``added``, here or there."""
    return {key: value for key, value in environment.items() if not key.startswith(LAUNCHERS) and key not in added}


def main(address, *words):
    environment, pid, early = dict(os.environ), 0, []

    def forward(number, frame):
        if pid:
            with suppress(ProcessLookupError):  # it has ended; its last word is on the way
                os.kill(pid, number)
        else:
            early.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)
    if "PMI_RANK" in environment and "MASTER_PORT" not in environment:
        # Ranks find the port where they meet from their launcher's number, which is no ancestor of the fork's.
        environment["MASTER_PORT"] = str(20_000 + os.getppid() % 10_000)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        there = server.makefile("r")
        known, added = json.loads(there.readline())
        if words[0] not in {"-m", "-c"} or known != same_for_all(environment, added):
            os.execv(sys.executable, [sys.executable, *words])
        asked = json.dumps({"words": words, "environment": environment, "folder": os.getcwd()}).encode()  # noqa: PTH109
        socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(asked)
        pid = int(there.readline())
        for number in early:
            forward(number, None)
        status = int(there.readline() or 1 << 8)
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(*sys.argv[1:])
