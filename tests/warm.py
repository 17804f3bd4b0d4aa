"""A Python that has imported what a training imports, and forks itself for each command that a test starts.

Hundreds of commands train for a second; torch's import alone takes three. ``warm(WORDS)`` is a command like ``python
WORDS``: a process in its own right, with the folder, variables, streams, signals and exit code of whoever starts it
(tests/warm_client.py, which stands for it). Where variables differ that an import may have read, it is a fresh Python.
Training with DeepSpeed has such a Python of its own.
"""

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch

from tests.warm_client import same_for_all

ROOT = Path(__file__).parents[1]
CLIENT = Path(__file__).with_name("warm_client.py")
MODULES = ("torch._dynamo", "torch.utils.tensorboard", "matplotlib.backends.backend_agg", "fmsci.cli")
MODULES += ("fmsci.train.run", "fmsci.evaluate", "fmsci.library.model", "fmsci.study", "fmsci.scaling")
"""What commands import, torch some of it at the first step: here once for all of them."""


def warm(words, deepspeed=False):
    """Return a command that does what ``python WORDS`` does, and is that but for -m MODULE and -c SCRIPT."""
    # Only Linux has it; and a fork cannot use a GPU that its parent has asked about.
    if not hasattr(os, "pidfd_open") or torch.cuda.is_available():
        return [sys.executable, *map(str, words)]
    return [sys.executable, "-S", str(CLIENT), _address(deepspeed), *map(str, words)]


@cache
def _address(deepspeed):
    """Start the Python of this test process; it ends when this one does."""
    from tests.commands import clean_environment

    folder = tempfile.mkdtemp(prefix="warm-")  # a socket's path is short: not under pytest's own folder
    address = str(Path(folder) / "socket")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.warm", address, *(["deepspeed"] if deepspeed else [])],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"warm\n"
    process.stdout.close()

    def end():
        process.stdin.close()
        process.wait()

    atexit.register(end)
    return address


class Forked:
    """A command under way: its process, the connection to whom it belongs to."""

    def __init__(self, pid, connection):
        self.pid, self.connection, self.handle = pid, connection, os.pidfd_open(pid)

    def end(self):
        """Take the process's last word, and pass it on where somebody waits for it."""
        status = os.waitpid(self.pid, 0)[1]
        with suppress(OSError):
            self.connection.sendall(f"{status}\n".encode())
        self.close()

    def close(self):
        self.connection.close()
        os.close(self.handle)


def serve(address, before, added):
    """Fork for all who ask until stdin ends. Returns in each fork: what is asked of it, and its streams.

    ``before``: the variables that were there when the imports began; ``added``: those that they have set.
    """
    known = json.dumps([same_for_all(before, added), added]).encode() + b"\n"
    children = []
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen(64)
        print("warm", flush=True)
        selector.register(0, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            # Whoever was killed first: a command that starts after that finds nothing of it.
            events = sorted((key for key, _ in selector.select()), key=lambda key: key.data is None)
            for key in events:
                child = key.data
                if child is not None and child in children:
                    if key.fileobj is child.connection:  # only its end is ever read there
                        os.kill(child.pid, signal.SIGKILL)
                    children.remove(child)
                    selector.unregister(child.handle)
                    selector.unregister(child.connection)
                    child.end()
            ready = [key.fileobj for key in events]
            if 0 in ready:
                for child in children:
                    os.kill(child.pid, signal.SIGKILL)
                shutil.rmtree(Path(address).parent)
                os._exit(0)
            if listener in ready:
                connection = listener.accept()[0]
                connection.settimeout(20)  # nobody else is served meanwhile
                asked = question(connection, known)
                if asked is None:  # it takes a fresh Python
                    connection.close()
                    continue
                pid = os.fork()
                if not pid:
                    connection.close()
                    for child in children:
                        child.close()
                    return asked
                for stream in asked[1]:
                    os.close(stream)
                with suppress(OSError):  # killed already: its end is heard below
                    connection.sendall(f"{pid}\n".encode())
                child = Forked(pid, connection)
                children.append(child)
                selector.register(child.handle, selectors.EVENT_READ, child)
                selector.register(connection, selectors.EVENT_READ, child)


def question(connection, known):
    """Return what a client asks for and the streams that it lends; None where it goes away."""
    streams, text = [], b""
    with suppress(OSError):  # it was killed
        connection.sendall(known)
        size, streams, _, _ = socket.recv_fds(connection, 8, 3)
        wanted = int.from_bytes(size, "big")
        while len(text) < wanted and (more := connection.recv(wanted - len(text))):
            text += more
        if text and len(text) == wanted:
            return json.loads(text), streams
    for stream in streams:
        os.close(stream)
    return None


def become(asked, streams, added, script):
    """Be the process that was asked for, up to its first line. ``added``: the variables that imports have set.

    What it starts by the name of its Python starts warm, too: by ``script``.
    """
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(added | asked["environment"])
    random.seed()  # as those of a fresh process: forks would all draw the same
    np.random.seed()
    sys.path[0] = asked["folder"]
    sys.executable = str(script)
    sys.argv = [asked["words"][0], *asked["words"][2:]]


def end(how, what):
    """Run the module or script, and end as Python does, but for taking apart what was imported: that copies it all."""
    code = 0
    try:
        if how == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(what, {"__name__": "__main__"})
    except SystemExit as asked:
        code = asked.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


def main(address, deepspeed=None):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the clients, who pass it on
    before = dict(os.environ)
    for module in MODULES:
        importlib.import_module(module)
    added = {key: value for key, value in os.environ.items() if key not in before}
    if deepspeed:
        from fmsci.engine.zero_import import import_deepspeed
        from fmsci.world import World

        import_deepspeed(World(), torch.device("cpu"))
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a fork would lose the other threads"
    script = Path(address).with_name("python")
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -S {CLIENT} {address} "$@"\n')
    script.chmod(0o755)
    gc.collect()
    gc.freeze()  # or each fork copies it all, at its first look for garbage
    asked, streams = serve(address, before, added)
    become(asked, streams, added, script)
    end(*asked["words"][:2])


if __name__ == "__main__":
    main(*sys.argv[1:])
