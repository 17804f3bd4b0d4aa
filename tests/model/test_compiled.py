"""The compiled functions of a CPU: made from the sources beside them, or missing, and said why."""

import _ctypes
import ctypes
import os
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest

from fmsci.model import compiled
from tests.model.on_cpu import BUILT, HERE, KERNELS, LIBRARY, ROOT


@BUILT
def test_it_was_compiled_where_there_was_a_compiler():
    assert compiled.library() is not None
    assert compiled.lanes() in {8, 16}


@BUILT
@pytest.mark.parametrize(
    ("found", "says"),
    [
        ("the library", ""),
        ("nothing", "install a C compiler"),
        ("no library", "cannot be loaded"),
        ("another library", "cannot be loaded"),
        ("changed sources", "have changed since"),
        ("a core without registers", "no AVX2"),
    ],
)
def test_where_it_cannot_be_run_it_is_missing_and_says_why(monkeypatch, tmp_path, found, says):
    file = tmp_path / LIBRARY.name
    for name in (*compiled.SOURCES, LIBRARY.name):
        shutil.copy(KERNELS / name, tmp_path / name)
    if found == "no library":
        file.write_text("not a library")
    elif found == "another library":
        shutil.copy(_ctypes.__file__, file)
    elif found == "changed sources":
        with (tmp_path / "registers.h").open("a") as header:
            header.write("\n")
    elif found == "a core without registers":
        library = ctypes.CDLL(str(file))
        library.fmsci_lanes = lambda: 0
        monkeypatch.setattr(ctypes, "CDLL", lambda path: library)
    spec = None if found == "nothing" else ModuleSpec("_cpu", None, origin=str(file))
    monkeypatch.setattr(compiled, "find_spec", lambda name: spec)
    compiled.load.cache_clear()
    try:
        functions, why_not = compiled.load()
        assert (functions is not None) == (found == "the library")
        assert says in why_not
    finally:
        monkeypatch.undo()
        compiled.load.cache_clear()


@pytest.mark.skipif(not HERE, reason="it is for x86-64 with AVX2 and Linux")
@pytest.mark.parametrize("compiler", ["gcc", "false"])
def test_without_a_compiler_the_build_goes_on(tmp_path, compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} here")
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", tmp_path, "--build-temp", tmp_path / "t"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"CC": compiler}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    built = list(tmp_path.rglob("_cpu*.so"))
    assert len(built) == (compiler == "gcc")
    if built:
        assert ctypes.CDLL(str(built[0])).fmsci_lanes() in {8, 16}
