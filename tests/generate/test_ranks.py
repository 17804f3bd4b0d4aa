"""What goes wrong before and between ranks is a sentence."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from fmsci.generate import ranks as ranks_room
from fmsci.generate.ranks import MpiRanks
from fmsci.world import World
from tests.commands import clean_environment, command
from tests.generate.folders import SMALL


def run_python(script, **changes):
    words = [sys.executable, "-c", script]
    return subprocess.run(
        words, env=clean_environment(**changes), capture_output=True, text=True, timeout=60, check=False
    )


class AnswersAtOnce:
    """COMM_WORLD of rank 1 of 2 where rank 0's answers to a message are there before the sender looks again."""

    def __init__(self, *answers):
        self.answers, self.arrived, self.looks = answers, [], 0

    def Get_rank(self):  # noqa: N802 - MPI's name
        return 1

    def Get_size(self):  # noqa: N802
        return 2

    def isend(self, message, dest, tag):
        if message[-1]:
            self.arrived += self.answers
        return SimpleNamespace(Test=lambda: True, wait=lambda: None)

    def iprobe(self, source, tag):
        self.looks += 1
        assert self.looks < 10, "waits for ever"
        return bool(self.arrived)

    def recv(self, source, tag):
        return self.arrived.pop(0)


@pytest.mark.parametrize(("answers", "stopped"), [(["end"], False), (["stop", "end"], True)])
def test_an_end_that_comes_at_once_is_heard(monkeypatch, answers, stopped):
    """Between real ranks this takes luck: rank 0 settled first and listens just when this one sends."""
    mpi = SimpleNamespace(COMM_WORLD=AnswersAtOnce(*answers))
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=mpi))
    monkeypatch.setattr(MpiRanks, "PULSE_S", 0.0)
    ranks = MpiRanks(World(rank=1, size=2, local_rank=1, local_size=2, launcher="mpiexec"))
    assert ranks.settle(8, False, lambda done: None) is stopped
    assert ranks.settle(8, False, lambda done: None) is stopped  # and nothing of the first is left for a second


class Silent:
    """COMM_WORLD of rank 5 of thousands; rank 0 says nothing."""

    def __init__(self):
        self.sent = []

    def Get_rank(self):  # noqa: N802
        return 5

    def Get_size(self):  # noqa: N802
        return 4096

    def isend(self, message, dest, tag):
        self.sent.append(message)
        return SimpleNamespace(Test=lambda: True)

    def iprobe(self, source, tag):
        return False


def test_rank_0_of_thousands_gets_some_hundred_messages_a_second(monkeypatch):
    """It makes samples like the others. Asked to stop, each of them says so once, not with every sample."""
    world, clock = Silent(), SimpleNamespace(now=100.0)
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=SimpleNamespace(COMM_WORLD=world)))
    monkeypatch.setattr(ranks_room.time, "monotonic", lambda: clock.now)
    ranks = MpiRanks(World(rank=5, size=4096, local_rank=1, local_size=4, launcher="srun"))
    for done in range(6000):
        clock.now += 0.01
        assert ranks.report(done, stop=False) == (done, False)
    assert 5 < len(world.sent) < 10  # in a minute
    world.sent.clear()
    for done in range(6000, 6100):
        clock.now += 0.001
        assert ranks.report(done, stop=True) == (done, True)
    assert world.sent == [(6000, True, False)]


@pytest.mark.mpi
def test_a_launcher_of_another_mpi_is_a_sentence():
    """The launcher says two ranks, MPI sees one: they would all do the whole work."""
    script = (
        "from fmsci.errors import UserError\n"
        "from fmsci.generate.ranks import build_ranks\n"
        "from fmsci.world import World\n"
        "try:\n    build_ranks(World(rank=1, size=2, local_rank=1, local_size=2, launcher='srun'))\n"
        "except UserError as error:\n    print(error)\n"
    )
    said = run_python(script).stdout
    assert "srun started rank 1 of 2 but mpi4py sees rank 0 of 1" in said
    assert "come from different MPIs" in said


@pytest.mark.mpi
def test_ranks_without_mpi4py_are_a_sentence(tmp_path):
    words = command(["generate", *SMALL, f"output={tmp_path / 'data'}"], ranks=2)
    at = words.index("-m")
    words[at : at + 2] = ["-c", "import sys; sys.modules['mpi4py'] = None\nfrom fmsci.cli import main; main()"]
    done = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "2 ranks were started but mpi4py cannot be imported" in done.stderr
    assert "pip install mpi4py" in done.stderr
    assert not (tmp_path / "data").exists()


def test_one_process_never_imports_mpi4py(tmp_path):
    script = (
        "import sys; sys.modules['mpi4py'] = None\n"
        f"sys.argv = ['fmsci', 'generate', *{SMALL!r}, 'output={tmp_path / 'data'}']\n"
        "from fmsci.cli import main; main()"
    )
    done = run_python(script)
    assert done.returncode == 0, done.stderr


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_made(tmp_path):
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        f"sys.argv = ['fmsci', 'generate', *{SMALL!r}, 'grid=32', 'output={tmp_path / 'data'}']\n"
        "from fmsci.cli import main; main()"
    )
    done = run_python(script)
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob(".aside-*"))
    assert not list(tmp_path.rglob("shard-*"))
