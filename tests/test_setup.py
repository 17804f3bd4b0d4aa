"""tools/setup.sh without a network: a copy of it meets machines made of a few stand-ins for python3, apt-get and id."""

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import time
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
KERNELS = "fmsci/model/kernels"
BASH = shutil.which("bash") or "bash"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
GREP = shutil.which("grep") or "grep"
TOOLS = [
    "cat", "cksum", "chmod", "cp", "cut", "dirname", "grep", "mkdir", "mv", "rm", "sed", "sort", "tail", "uname", "wc",
]  # fmt: skip

# The stand-in for a system's Python: as the real one, but for the module venv. Its .venv holds a python whose pip only
# writes down what it was asked; both obey the files of the machine's folder: has-venv, venv-fails, pip-says.
PYTHON = f"""#!{BASH}
case "$*" in
*"import ensurepip, venv"*) [ -e "$MACHINE/has-venv" ] ;;
"-m venv "*)
    echo "venv" >>"$MACHINE/calls"
    if [ -e "$MACHINE/venv-fails" ]; then echo "no room for a venv" >&2; exit 1; fi
    mkdir -p "$3/bin" && cp "$MACHINE/venv-python" "$3/bin/python"
    ;;
*) exec {sys.executable} "$@" ;;
esac
"""
VENV_PYTHON = f"""#!{BASH}
case "$*" in
"-m pip install"*)
    leaked="PYTHONPATH=${{PYTHONPATH:-}} VIRTUAL_ENV=${{VIRTUAL_ENV:-}} PIP_USER=${{PIP_USER:-}}"
    echo "pip ${{*: -1}} $leaked" >>"$MACHINE/calls"
    echo "Collecting torch==2.13.0"
    [ ! -e "$MACHINE/pip-tells" ] || cat "$MACHINE/pip-tells"
    [ ! -e "$MACHINE/compiles" ] || : >{KERNELS}/_cpu.so
    if [ -e "$MACHINE/pip-says" ]; then cat "$MACHINE/pip-says"; exit 1; fi
    ;;
-) echo "{VERSION} $(cd "$(dirname "$0")/.." && pwd -P)" ;;
*) exec {sys.executable} "$@" ;;
esac
"""
OLD_PYTHON = f"""#!{BASH}
case "$*" in
*print*) echo 3.8 ;;
*) exit 1 ;;
esac
"""
APT = f"""#!{BASH}
echo "apt-get $*" >>"$MACHINE/calls"
case "$*" in
install*) : >"$MACHINE/has-venv" ;;
esac
"""


class Machine:
    """A checkout beside a folder that is all of PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.checkout = folder / "check out"  # with a blank, as a home folder may have
        self.bin.mkdir()
        (self.checkout / "tools").mkdir(parents=True)
        (self.checkout / KERNELS).mkdir(parents=True)
        for name in ("setup.py", "tools/setup.sh", "tools/lock.txt", f"{KERNELS}/pointwise.c"):
            shutil.copy(ROOT / name, self.checkout / name)
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
        self.command(folder / "venv-python", VENV_PYTHON)
        self.user(1000)

    def command(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def user(self, number: int) -> "Machine":
        self.command(self.bin / "id", f"#!{BASH}\necho {number}\n")
        return self

    def python(self, text: str = PYTHON, *, venv: bool = True) -> "Machine":
        self.command(self.bin / "python3", text)
        if venv:
            (self.folder / "has-venv").touch()
        return self

    def apt(self) -> "Machine":
        self.command(self.bin / "apt-get", APT)
        return self

    def says(self, text: str) -> None:
        (self.folder / "pip-says").write_text(text + "\n")

    def set_up(self, command: str = "bash tools/setup.sh", **environment: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(self.bin), "HOME": str(self.folder), "MACHINE": str(self.folder), **environment}
        # A blank line for bash itself, which is not on that PATH.
        return subprocess.run(
            [BASH, "-c", f"bash() {{ '{BASH}' \"$@\"; }}; {command}"],
            cwd=self.checkout, env=env, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def calls(self) -> list[str]:
        """What was called since the last time."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def sentence(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Return the one line on stderr, the exit code as expected."""
    assert done.returncode == code, (done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("set-up: ")
    return lines[0]


# ------------------------------------------------------------------ what is missing


def test_no_python(machine: Machine) -> None:
    assert "there is no Python: install Python 3.10 or newer" in sentence(machine.set_up(), 2)


def test_no_python_on_debian(machine: Machine) -> None:
    assert sentence(machine.apt().set_up(), 2).endswith("sudo apt-get install -y python3 python3-venv")
    assert machine.calls() == []


def test_python_is_too_old(machine: Machine) -> None:
    said = sentence(machine.apt().python(OLD_PYTHON).set_up(), 2)
    assert "Python 3.10 or newer is needed and python3 is 3.8" in said
    assert "PYTHON=/path/to/python3.12" in said


def test_python3_is_too_old_but_another_is_there(machine: Machine) -> None:
    machine.python(OLD_PYTHON)
    machine.command(machine.bin / "python3.12", PYTHON)
    assert machine.set_up().returncode == 0


def test_named_python_does_not_exist(machine: Machine) -> None:
    assert "PYTHON=/no/python is not a Python 3.10 or newer" in sentence(
        machine.python().set_up(PYTHON="/no/python"), 2
    )


def test_no_venv_for_a_user(machine: Machine) -> None:
    machine.apt().python(venv=False)
    assert sentence(machine.set_up(), 2).endswith(f"sudo apt-get install -y python{VERSION}-venv")
    assert machine.calls() == []
    assert not (machine.checkout / ".venv").exists()


def test_no_venv_for_root(machine: Machine) -> None:
    machine.apt().user(0).python(venv=False)
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    assert machine.calls()[:3] == ["apt-get update -qq", f"apt-get install -y -qq python{VERSION}-venv", "venv"]


def test_no_venv_and_no_apt(machine: Machine) -> None:
    assert "python3 has no venv module" in sentence(machine.user(0).python(venv=False).set_up(), 2)


def test_venv_fails(machine: Machine) -> None:
    (machine.folder / "venv-fails").touch()
    assert sentence(machine.python().set_up(), 1).endswith("python3 cannot make .venv: no room for a venv")


@pytest.mark.parametrize(
    ("pip_says", "reason"),
    [
        ("ERROR: No matching distribution found for torch==2.13.0", "No matching distribution found for torch==2.13.0"),
        ("WARNING: Retrying: NewConnectionError\nERROR: No matching", "the package index cannot be reached"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "no space left on the disk"),
        ("", "it was interrupted"),
    ],
)
def test_pip_fails(machine: Machine, pip_says: str, reason: str) -> None:
    machine.python().says(pip_says)
    said = sentence(machine.set_up(), 1)
    assert f"pip could not install the packages of tools/lock.txt: {reason}" in said
    assert said.endswith("its whole output is in .venv/setup.log")
    assert pip_says in (machine.checkout / ".venv" / "setup.log").read_text()


# ------------------------------------------------------------------ again


def test_the_second_call_does_nothing_and_is_fast(machine: Machine) -> None:
    assert machine.python().set_up().returncode == 0
    assert [call.partition(" PYTHON")[0] for call in machine.calls()] == ["venv", "pip tools/lock.txt", "pip ."]
    began = time.perf_counter()
    done = machine.set_up()
    assert time.perf_counter() - began < 2
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.calls() == []


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="nothing is compiled elsewhere")
def test_without_a_compiler_it_says_what_that_costs(machine: Machine) -> None:
    library = machine.checkout / KERNELS / "_cpu.so"
    library.touch()  # of other sources
    done = machine.python().set_up()
    assert (done.returncode, done.stderr) == (0, "")
    assert "no C compiler served" in done.stdout
    assert not library.exists()
    assert machine.set_up().stdout == ""

    machine.command(machine.bin / "gcc", "")
    (machine.folder / "compiles").touch()
    done = machine.set_up()
    assert (done.returncode, done.stderr) == (0, "")
    assert "no C compiler served" not in done.stdout
    assert library.exists()
    assert machine.set_up().stdout == ""
    library.unlink()
    assert "installing" in machine.set_up().stdout
    assert library.exists()


@pytest.mark.parametrize("changed", ["tools/lock.txt", "setup.py", f"{KERNELS}/pointwise.c"])
def test_a_change_is_installed_on_top(machine: Machine, changed: str) -> None:
    machine.python().set_up()
    machine.calls()
    with (machine.checkout / changed).open("a") as file:
        file.write("# changed\n")
    assert machine.set_up().returncode == 0
    assert [call.split()[0] for call in machine.calls()] == ["pip", "pip"]
    assert machine.set_up().stdout == ""


@pytest.mark.parametrize("damage", ["killed in pip", "no python", "moved", "never finished"])
def test_what_is_not_whole_is_made_anew(machine: Machine, damage: str) -> None:
    machine.python().set_up()
    machine.calls()
    venv = machine.checkout / ".venv"
    if damage == "killed in pip":
        (venv / "setup.unfinished").touch()
    elif damage == "no python":
        (venv / "bin" / "python").unlink()
    elif damage == "never finished":
        (venv / "setup.stamp").unlink()
    else:
        machine.checkout = machine.checkout.rename(machine.folder / "elsewhere")
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    assert "making .venv anew" in done.stdout
    assert machine.calls()[0] == "venv"
    assert machine.set_up().stdout == ""


def test_a_failed_update_leaves_what_was_there(machine: Machine) -> None:
    """Where pip failed before it touched anything, taking the change back makes all whole again."""
    machine.python().set_up()
    lock = machine.checkout / "tools" / "lock.txt"
    before = lock.read_text()
    lock.write_text(before + "# changed\n")
    machine.says("ERROR: No matching distribution found")
    assert machine.set_up().returncode == 1
    lock.write_text(before)
    machine.calls()
    assert machine.set_up().returncode == 0
    assert machine.calls() == []


def test_two_at_a_time(machine: Machine) -> None:
    machine.python()
    done = machine.set_up("bash tools/setup.sh & bash tools/setup.sh; wait $!")
    assert done.returncode == 0, done.stderr
    assert machine.calls().count("venv") == 1


# ------------------------------------------------------------------ what must not leak


def test_the_users_shell_does_not_leak_in(machine: Machine) -> None:
    done = machine.python().set_up(PYTHONPATH="/elsewhere", VIRTUAL_ENV="/other", PIP_USER="1")
    assert done.returncode == 0, done.stderr
    assert [call for call in machine.calls() if call.startswith("pip")] == [
        "pip tools/lock.txt PYTHONPATH= VIRTUAL_ENV= PIP_USER=",
        "pip . PYTHONPATH= VIRTUAL_ENV= PIP_USER=",
    ]


def test_an_active_environment_is_not_the_base_of_a_new_one(machine: Machine) -> None:
    """The checkout's own .venv may be active and broken; the system's Python makes the new one."""
    machine.python().set_up()
    venv = machine.checkout / ".venv"
    machine.command(venv / "bin" / "python3", f"#!{BASH}\nexit 1\n")
    (venv / "setup.unfinished").touch()
    assert machine.set_up(PATH=f"{venv}/bin:{machine.bin}", VIRTUAL_ENV=str(venv)).returncode == 0


def test_sourced_it_gives_the_environment(machine: Machine) -> None:
    show = 'echo "$VIRTUAL_ENV"; command -v python; echo "${PYTHONPATH-none}"'
    done = machine.python().set_up(f"set -eu; . tools/setup.sh >/dev/null || exit; {show}", PYTHONPATH="/elsewhere")
    venv = machine.checkout / ".venv"
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == [str(venv), f"{venv}/bin/python"]
    assert lines[2] == "none"


def test_sourced_it_hands_its_exit_code_on(machine: Machine) -> None:
    assert machine.set_up(". tools/setup.sh || exit; echo went on").returncode == 2


# ------------------------------------------------------------------ the files themselves


SCRIPTS = [*sorted(ROOT.glob("tools/*.sh")), ROOT / ".ci" / "run", *sorted(ROOT.glob("slurm/*.s*"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=[str(path.relative_to(ROOT)) for path in SCRIPTS])
def test_scripts_parse(script: Path) -> None:
    done = subprocess.run([BASH, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_ci_is_the_command_of_the_readme() -> None:
    assert (ROOT / ".ci" / "run").read_text() == "#!/usr/bin/env bash\nbash tools/test.sh\n"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def lock_lines() -> list[str]:
    lines = (ROOT / "tools" / "lock.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_lock_pins_every_line() -> None:
    for line in lock_lines():
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9a-z.]+( ; .+)?", line), line
    assert "torch==2.13.0" in lock_lines()
    assert "triton==3.7.1 ; platform_system == 'Linux'" in lock_lines(), "the version that this torch pins"
    assert not [line for line in lock_lines() if re.match(r"nvidia-|cuda-", line)], "torch pins these itself"


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_the_lock_serves_setup_py(version: str) -> None:
    """Each requirement has exactly one pin, inside its range, on each Python."""
    environment = {**default_environment(), "python_version": version, "python_full_version": f"{version}.1"}
    pins: dict[str, list[str]] = {}
    for line in lock_lines():
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate({key: str(value) for key, value in environment.items()}):
            pins.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    assert all(len(found) == 1 for found in pins.values()), pins
    for text in requires("fmsci") or []:
        wanted = Requirement(text)
        if wanted.marker is None or any(
            wanted.marker.evaluate({"extra": extra}) for extra in ("mpi", "dev", "deepspeed")
        ):
            assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)][0]), text


def test_packages_are_counted_for_this_python_wherever_they_come_from(machine: Machine) -> None:
    """The last line that a log gets tells all of them, those from a folder and those that were there included."""
    lock = machine.checkout / "tools/lock.txt"
    lock.write_text("# pinned\ntorch==2.13.0\na==1 ; python_full_version < '3.10'\na==2\nb==1\n")
    told = "Ignoring a: markers 'python_full_version < \"3.10\"' don't match your environment\n"
    told += "Requirement already satisfied: b==1 in x (from -r tools/lock.txt (line 5)) (1)\n"
    (machine.folder / "pip-tells").write_text(told + "Processing /a folder/a-2-py3-none-any.whl (from -r x (line 4))\n")
    counted = machine.python().set_up(f'bash -x tools/setup.sh 2>&1 >&1 | {GREP} -o "line=\'package.*"')
    assert counted.stdout.splitlines()[:2] == [
        "line='package 1 of 4: torch==2.13.0'",
        "line='package 3 of 3: a-2-py3-none-any.whl'",
    ]


def test_a_folder_of_the_same_name_does_not_hide_the_package(tmp_path: Path) -> None:
    """Such as the checkout itself, for a script that lies beside it."""
    (tmp_path / "fmsci").mkdir()
    code = "import fmsci; print(fmsci.load.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("fmsci.library.model\n", 0), done.stderr
