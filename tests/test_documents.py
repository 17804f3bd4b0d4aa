"""Every block of commands and code in README.md and docs/ runs, page by page, from top to bottom; the site builds.

A comment on the line before a block says what is special about it: docs/contributing.md lists them.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import yaml

from tests.commands import MPIEXEC, WARM, clean_environment
from tests.warm import warm

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- (.*?) -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MARKS = ("needs: ", "tested by: ", "planned by: ", "file: ", "exit code: ")
ELSEWHERE = ("needs: ", "tested by: ", "planned by: ")
"""Marks of blocks that this test does not run."""
FENCE = re.compile(r"(?:^<!-- (.*?) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

OWN_TESTS = {"contributing.md": "tests/test_contributing.py", "library.md": "tests/test_library_document.py"}
"""Pages whose blocks are run by a test of their own."""

SMALLER = {
    "configs/data/quickstart_pretrain.yaml": {"grid": 64, "train": 32, "valid": 16, "test": 16},
    "configs/data/quickstart_downstream.yaml": {"grid": 32, "train": 256, "valid": 16, "test": 16},
    "configs/pretrain/quickstart.yaml": {
        "optim": {"epochs": 1},
        "data": {"valid_samples": 16},
        "model": {"size": "64K"},
    },
    "configs/finetune/quickstart.yaml": {"optim": {"batch_size": 32}, "data": {"valid_samples": 16}},
    "configs/study/quickstart.yaml": {"steps": 2, "ratio_below": None},
}
"""Configurations in a reduced form: the commands stay as the pages have them."""

MANY = re.compile(r"--grid \d{3,}|--(?:train|valid|test) \d{3,}")
"""Numbers of a command that would take long; a test takes small ones."""


def merged(document, changes):
    for key, value in changes.items():
        if isinstance(value, dict):
            merged(document.setdefault(key, {}), value)
        else:
            document[key] = value
    return document


def blocks(page):
    return [(mark, language, text) for mark, language, text in BLOCK.findall(page.read_text())]


def name(page):
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def place(tmp_path):
    """A folder with everything that commands name: reduced configurations, job scripts, and the paper's own files."""
    for path in (ROOT / "configs").rglob("*.yaml"):
        target = tmp_path / name(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        document = merged(yaml.safe_load(path.read_text()), SMALLER.get(name(path), {}))
        target.write_text(yaml.safe_dump(document, sort_keys=False))
    shutil.copytree(ROOT / "slurm", tmp_path / "slurm")
    return tmp_path


def papers_files(place, environment):
    """Write files as the paper's code makes them, with the samples of a small data folder."""
    sizes = ["--grid", "16", "--train", "4", "--valid", "3", "--test", "2"]
    command = ["fmsci", "generate", "--system", "poisson", "--range", "1", "5", *sizes, "--output", "data/made"]
    subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True)
    for split, file in (("train", "_train_k1_5_32k"), ("valid", "_val_k1_5_4k"), ("test", "_test_k1_5_4k")):
        with h5py.File(place / f"data/made/{split}.h5") as made, h5py.File(place / f"{file}.h5", "w") as theirs:
            theirs["fields"], theirs["tensor"] = made["fields"][()], made["tensor"][()]


def warm_fmsci(folder):
    """Make a folder with a ``fmsci`` that has imported torch already, for the verbs that need it."""
    folder.mkdir()
    installed, forked = Path(sys.executable).with_name("fmsci"), shlex.join(warm(["-m", "fmsci"]))
    choice = f'case "$1" in {"|".join(WARM)}) exec {forked} "$@";; *) exec {installed} "$@";; esac'
    (folder / "fmsci").write_text(f"#!/bin/sh\n{choice}\n")
    (folder / "fmsci").chmod(0o755)
    return folder


def run_page(page, place):
    """Do what a page says, from top to bottom."""
    bin_folder = Path(sys.executable).parent
    path = f"{bin_folder}:{MPIEXEC.parent}:{os.environ['PATH']}"
    if page.name != "README.md":  # there it is the installed one, as a new user has it
        path = f"{warm_fmsci(place / 'bin')}:{path}"
    environment = clean_environment(PATH=path)
    for mark, language, text in blocks(page):
        if mark.startswith(ELSEWHERE) or language in {"diff", "text"}:
            continue
        if mark.startswith("file: "):
            (place / mark.removeprefix("file: ")).write_text(text)
        elif language == "bash":
            if "_train_k1_5_32k.h5" in text:
                papers_files(place, environment)
            lines = [line for line in text.splitlines() if not line.startswith(". ")]  # the set-up has tests of its own
            script = MANY.sub(lambda found: f"{found[0].split()[0]} 16", "\n".join(lines))
            code = int(mark.removeprefix("exit code: ")) if mark.startswith("exit code: ") else 0
            started(["bash", "-ec", script], place, environment, code, text)
        elif language == "python":
            started([sys.executable, "-c", text], place, environment, 0, text)
        else:
            pytest.fail(f"{name(page)} has a block of {language} that nothing runs:\n{text}")


def started(command, place, environment, code, text):
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == code, f"{text}\nexit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def not_ignored(place):
    """Return what git would show of a checkout in which the commands have left what is in ``place``."""
    shutil.copy(ROOT / ".gitignore", place)
    subprocess.run(["git", "init", "--quiet"], cwd=place, check=True)
    shown = subprocess.run(["git", "status", "--short"], cwd=place, check=True, capture_output=True, text=True).stdout
    return {line.split()[1] for line in shown.splitlines()} - {".gitignore", "configs/", "slurm/", "bin/"}


def runs_here(page):
    return page.name not in OWN_TESTS and any(
        language in {"bash", "python"} and not mark.startswith(ELSEWHERE) for mark, language, _ in blocks(page)
    )


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("page", [page for page in PAGES if runs_here(page)], ids=name)
def test_every_block_of_a_page_runs(page, place):
    run_page(page, place)
    if page.name == "README.md":
        assert (place / "runs/quickstart/study/report.html").exists()
        assert (place / "runs/mine/evaluations/mine-test.json").exists()
    assert not_ignored(place) == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_says_that_it_is_one(page):
    """A block without a language is run by nobody."""
    for _, language, text in FENCE.findall(page.read_text()):
        first = text.removeprefix("$ ").split()[0]
        assert language or first == "fmsci/" or shutil.which(first) is None, (
            f"{name(page)}: a block begins with {first}"
        )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_is_not_run_says_why_and_exists(page):
    """Blocks that need a cluster name files and verbs that there are; those tested elsewhere really are."""
    for mark, language, text in blocks(page):
        if page.name in OWN_TESTS:
            assert page.name in (ROOT / OWN_TESTS[page.name]).read_text()
            assert mark or language != "bash", f"{name(page)}: a block of commands without a mark"
        else:
            assert not mark or mark.startswith(MARKS), f"{name(page)}: no test knows the mark '{mark}'"
        kind, _, where = mark.partition(": ")
        if kind in {"tested by", "planned by"}:
            untold = untested(text, "".join(map(source, where.split(", "))), page, kind == "planned by")
            assert not untold, f"{name(page)}: {where} does not name {untold}"
        if kind == "needs":
            for line in text.splitlines():
                for word in shlex.split(line, comments=True):
                    if re.fullmatch(r"(configs|tools|slurm)/[\w/.-]+\.\w+", word):
                        assert (ROOT / word).exists(), f"{name(page)}: {word}"


def source(path):
    return (ROOT / path).read_text()


def untested(text, test, page, planned):
    """Return the first verb, script or file of configs/ in a block that a test does not name; None where all are.

    A test that takes its commands from the page itself names them all. One that plans goes through a whole folder.
    """
    if f"docs/{page.name}" in test:
        return None
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["fmsci"] and not planned:
            verb = words[1:3] if words[1] in {"data", "model"} else words[1:2]
            if ", ".join(f'"{word}"' for word in verb) not in test:
                return " ".join(["fmsci", *verb])
        for word in words:
            if word.startswith("configs/"):
                assert (ROOT / word).exists(), word
                known = "/".join(word.split("/")[:2]) in test if planned else word in test
                if not known:
                    return word
            if re.fullmatch(r"tools/\w+\.sh", word) and word not in test:
                return word
    return None


def test_a_block_that_its_test_does_not_run_is_found():
    page = ROOT / "docs/studies.md"
    test = source("tests/train/test_profile.py")
    assert untested("fmsci study configs/study/quickstart.yaml run", test, page, False) == "fmsci study"
    assert (
        untested("fmsci train configs/pretrain/quickstart.yaml", test, page, False)
        == "configs/pretrain/quickstart.yaml"
    )
    assert untested("bash tools/test.sh", test, page, False) == "tools/test.sh"
    assert untested("fmsci study configs/study/quickstart.yaml run", test, page, True) is not None


def test_every_mark_is_in_the_table_of_marks():
    table = (ROOT / "docs/contributing.md").read_text()
    used = {mark.partition(":")[0] for page in PAGES for mark, _, _ in blocks(page) if mark}
    assert {"tested by", "planned by", "run", "command"} <= used
    assert [mark for mark in used if f"`<!-- {mark}" not in table] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        assert target.startswith(("https://", "#")) or (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=clean_environment(NO_MKDOCS_2_WARNING="1"),  # the theme's advertisement of its successor
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for page in PAGES[1:]:
        assert (tmp_path / "site" / page.stem / "index.html").exists()
    front = (tmp_path / "site/index.html").read_text()
    assert all(f'href="{page.stem}/"' in front for page in PAGES[1:]), "a page is missing in the navigation"
    api = (tmp_path / "site/api/pde/index.html").read_text()
    assert "Return the solution u of" in api  # from the docstring of fmsci.pde.solve
