"""The Python that forks itself for the commands of tests: its forks are as good as a process of their own."""

import os
import signal
import socket
import subprocess

import pytest
import torch

from tests.commands import MPIEXEC, clean_environment, command
from tests.conftest import TRAINING
from tests.train.test_resume import final_bits
from tests.warm import warm

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="where there is a GPU nothing starts warm")

READS = "import os, sys, time\nprint('torch' in sys.modules, flush=True)\n"


def started(words, cwd=None, **environment):
    return subprocess.Popen(
        words,
        cwd=cwd,
        env=clean_environment(**environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_it_trains_to_the_same_bits_as_a_fresh_process(trained, train_config, tmp_path):
    words = command(["train", train_config, f"run={tmp_path / 'run'}", *TRAINING])
    subprocess.run(words, env=clean_environment(), check=True, capture_output=True, timeout=240)
    assert final_bits(tmp_path / "run") == final_bits(trained)


def test_folder_arguments_streams_variables_and_exit_code_are_those_of_whoever_starts_it(tmp_path):
    script = f"{READS}print(os.getcwd(), sys.argv[1:], sys.stdin.read(), os.environ['PMI_RANK'])\nsys.exit(7)\n"
    process = started(warm(["-c", script, "a b", 3]), tmp_path, PMI_RANK="5")
    printed = process.communicate("hello")[0]
    assert printed.splitlines() == ["True", f"{tmp_path} ['a b', '3'] hello 5"]
    assert process.returncode == 7
    process = started(warm(["-c", "raise ValueError('told')"]))
    assert process.communicate()[0].endswith("ValueError: told\n")
    assert process.returncode == 1


def test_where_a_variable_differs_it_is_a_fresh_python():
    process = started(warm(["-c", READS]), ANOTHER="1")
    assert process.communicate()[0] == "False\n"
    assert process.returncode == 0


def test_what_it_starts_by_the_name_of_its_python_starts_warm_too():
    nested = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {READS!r}])\n"
    assert started(warm(["-c", nested])).communicate()[0] == "True\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_reaches_it_and_the_end_by_one_is_told(number):
    handled = f"import signal\nsignal.signal({number}, lambda *_: sys.exit(75))\n"
    for script, code in ((handled, 75), ("", -number)):
        process = started(warm(["-c", f"import sys, time\n{script}print('ready', flush=True)\ntime.sleep(60)\n"]))
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.communicate(timeout=30)
        assert process.returncode == code


def test_it_is_gone_when_the_next_one_starts_after_it_was_killed():
    process = started(warm(["-c", "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n"]))
    number = int(process.stdout.readline())
    assert number != process.pid
    os.kill(number, 0)
    process.kill()
    process.communicate()
    gone = f"import os\ntry:\n    os.kill({number}, 0)\nexcept ProcessLookupError:\n    print('gone')\n"
    assert started(warm(["-c", gone])).communicate()[0] == "gone\n"


def test_who_hangs_up_at_any_moment_leaves_it_to_the_others():
    address = warm(["-c", READS])[3]
    for said in (None, b"", (100).to_bytes(8, "big"), (100).to_bytes(8, "big") + b"half a question"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            if said is not None:
                client.recv(1)
            if said:
                socket.send_fds(client, [said], [0, 1, 2])
    assert started(warm(["-c", READS])).communicate(timeout=30)[0] == "True\n"


@pytest.mark.distributed
def test_ranks_of_one_launcher_meet_and_those_of_two_do_not():
    """Their port comes from the launcher, which is no ancestor of a fork."""
    # One write a line: ranks would cut into each other's where Python does not buffer.
    script = "import os\nfrom fmsci.world import detect_world\nworld = detect_world()\n"
    script += "os.write(1, f'{world.size} {world.port}\\n'.encode())\n"
    launched = [started([str(MPIEXEC), "-n", "2", *warm(["-c", script])]) for _ in range(2)]
    first, second = (sorted(one.communicate(timeout=60)[0].splitlines()) for one in launched)
    assert first[0] == first[1] != second[0] == second[1]
    assert first[0].startswith("2 ")
