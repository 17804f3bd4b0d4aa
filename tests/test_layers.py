"""The rules of the rooms, read off the imports: they only go down, and each dependency has one owner."""

import ast
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# Top to bottom. A room may import the rooms of the lines below its own; not those of its own line, nor above.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["cluster"],
    ["scaling"],
    ["study"],
    ["train", "evaluate", "library"],
    ["engine"],
    ["model_folder"],
    ["checkpoint", "tensors", "metrics", "figures", "evaluation"],
    ["generate", "dataset"],
    ["model"],
    ["stages"],
    ["shards", "pde"],
    ["config"],
    ["locks"],
    ["terminal"],
    ["world"],
    ["nodelist"],
    ["files"],
    ["errors"],
]
LEVEL = {room: level for level, line in enumerate(LAYERS) for room in line}

# Rooms that take plain arguments, so that they serve without settings.
NO_SETTINGS = {"pde", "model"}

# dependency: the modules that may name it. The longest name that fits decides: torch.distributed before torch.
OWNERS = {
    "mpi4py": ["generate"],
    "h5py": ["shards"],
    "deepspeed": ["engine.zero", "engine.zero_import"],
    "torch": [
        "dataset",
        "model",
        "model_folder",
        "engine",
        "tensors",
        "metrics",
        "train",
        "evaluate",
        "library",
        "stages",
        "scaling.measure",
    ],
    "triton": ["model.kernels"],
    "torch.distributed": ["engine", "world"],
    "torch.utils.tensorboard": ["train.journal", "train.hparams"],
    "tensorboard": ["train.journal", "train.hparams"],
    "wandb": ["train.mirror"],
    "yaml": ["config"],
    "pydantic": ["config"],
    "pydantic_core": ["config"],
    "matplotlib": ["figures", "scaling.figures"],
    "mpl_toolkits": ["figures"],
    "rich": ["terminal"],
    "typer": ["cli"],
    "click": ["cli"],
    "safetensors": ["tensors"],
    "huggingface_hub": ["library.share"],
    "os.environ": ["world"],
    "os.environb": ["world"],
    "os.getenv": ["world"],
    "os.getenvb": ["world"],
    "os.putenv": ["world"],
    "os.unsetenv": ["world"],
}

MAX_LINES = 260


class Use(NamedTuple):
    """One dotted name that a file imports or reads: ``torch.distributed``, ``fmsci.world.World``, ``os.environ``."""

    line: int
    name: str


def uses(tree: ast.Module, module: str, is_package: bool) -> Iterator[Use]:
    """Yield what ``module`` (dotted, with ``fmsci``) uses, inside functions and for type checkers too."""
    bound: dict[str, str] = {}  # local name: the dotted name behind it
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield Use(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{base}.{alias.name}"
                yield Use(node.lineno, f"{base}.{alias.name}")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield Use(node.lineno, node.args[0].value)
    for node in ast.walk(tree):
        name = dotted(node) if isinstance(node, ast.Attribute) else None
        if name is not None and name.partition(".")[0] in bound:
            first, _, rest = name.partition(".")
            yield Use(node.lineno, f"{bound[first]}.{rest}")


def dotted(node: ast.expr) -> str | None:
    """Return ``a.b.c`` for that expression, None for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return None if base is None else f"{base}.{node.attr}"
    return None


def within(module: str, owners: list[str]) -> bool:
    return any(module == owner or module.startswith(owner + ".") for owner in owners)


def problem(importer: str, name: str) -> str | None:
    """Return what is wrong with ``importer`` (dotted, without ``fmsci``; empty: the package itself) using ``name``."""
    head, _, target = name.partition(".")
    if head == "fmsci":
        return problem_inside(importer, target)
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        dependency = ".".join(parts[:length])
        if dependency in OWNERS:
            if within(importer, OWNERS[dependency]):
                return None
            return f"uses {dependency}, which only {' and '.join(OWNERS[dependency])} may (one owner per dependency)"
    return None


def problem_inside(importer: str, target: str) -> str | None:
    above, below = importer.partition(".")[0], target.partition(".")[0]
    if not importer or importer == "__init__":
        return None  # the package itself is the front door: it hands on what the rooms offer (lazily, see below)
    if above == below:
        return None
    if below not in LEVEL:
        if below in {"", "__version__"}:
            return None
        return f"imports fmsci.{below}, which is no room: import it from the room that defines it"
    if above in NO_SETTINGS and below == "config":
        return f"imports fmsci.config, but {above} takes plain arguments, not settings"
    if LEVEL[below] > LEVEL[above]:
        return None
    where = "beside" if LEVEL[below] == LEVEL[above] else "above"
    return f"imports fmsci.{below}, which lies {where} fmsci.{above} (imports only go down)"


def violations(source: str, path: str) -> list[str]:
    """Return one line per broken rule in the text of ``path`` (``fmsci/train/loop.py``)."""
    parts = Path(path).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = parts[:-1] if is_package else parts
    importer = ".".join(module[1:])
    if importer and module[1] not in LEVEL:
        return [
            f"{path}:1: fmsci.{module[1]} is a room without a layer: give it a line in LAYERS of tests/test_layers.py"
        ]
    found = {
        f"{path}:{use.line}: {message}"
        for use in uses(ast.parse(source), ".".join(module), is_package)
        if (message := problem(importer, use.name)) is not None
    }
    return sorted(found)


# ------------------------------------------------------------------ the rules, on the package


FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "fmsci").rglob("*.py"))


def test_there_is_something_to_check() -> None:
    assert "fmsci/world/ranks.py" in FILES


@pytest.mark.parametrize("path", FILES)
def test_imports_go_down_and_dependencies_have_one_owner(path: str) -> None:
    found = violations((ROOT / path).read_text(encoding="utf-8"), path)
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("path", FILES)
def test_files_can_be_read_in_one_go(path: str) -> None:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path} has {lines} lines, at most {MAX_LINES}: split it by what its parts are for"


# ------------------------------------------------------------------ the rules, on bad sources


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("fmsci/world/ranks.py", "from fmsci.cli import main", "imports fmsci.cli, which lies above fmsci.world"),
        ("fmsci/engine/ddp.py", "import fmsci.train.loop", "imports fmsci.train, which lies above fmsci.engine"),
        ("fmsci/train/loop.py", "from fmsci.evaluate import evaluate", "which lies beside fmsci.train"),
        ("fmsci/train/loop.py", "from fmsci import evaluate", "which lies beside fmsci.train"),
        ("fmsci/shards/reader.py", "from fmsci.pde import solve", "which lies beside fmsci.shards"),
        ("fmsci/shards/reader.py", "from ..dataset.order import share", "which lies above fmsci.shards"),
        ("fmsci/shards/__init__.py", "from .. import dataset", "which lies above fmsci.shards"),
        ("fmsci/errors.py", "def f():\n    from fmsci.files import sync\n", "errors.py:2: imports fmsci.files"),
        (
            "fmsci/errors.py",
            "if TYPE_CHECKING:\n    from fmsci.world import World\n",
            "errors.py:2: imports fmsci.world",
        ),
        ("fmsci/errors.py", "import importlib\nimportlib.import_module('fmsci.world')", "imports fmsci.world"),
        ("fmsci/pde/poisson.py", "from fmsci.config import parse", "pde takes plain arguments, not settings"),
        ("fmsci/model/fno.py", "from fmsci.config import parse", "model takes plain arguments, not settings"),
        ("fmsci/train/loop.py", "from fmsci import load", "imports fmsci.load, which is no room"),
        ("fmsci/train/loop.py", "import fmsci\nfmsci.load('m')", "loop.py:2: imports fmsci.load, which is no room"),
        ("fmsci/newroom/a.py", "import os", "fmsci.newroom is a room without a layer"),
        ("fmsci/train/loop.py", "import h5py", "uses h5py, which only shards may"),
        ("fmsci/train/loop.py", "x = 1\n\nimport mpi4py.MPI as M", "loop.py:3: uses mpi4py, which only generate may"),
        ("fmsci/engine/ddp.py", "import deepspeed", "uses deepspeed, which only engine.zero"),
        ("fmsci/engine/zeroes.py", "import deepspeed", "uses deepspeed, which only engine.zero"),
        (
            "fmsci/train/loop.py",
            "from torch import distributed as dist",
            "uses torch.distributed, which only engine and",
        ),
        (
            "fmsci/train/loop.py",
            "import torch.distributed as dist",
            "uses torch.distributed, which only engine and world",
        ),
        ("fmsci/train/loop.py", "import torch\ntorch.distributed.barrier()", "loop.py:2: uses torch.distributed"),
        ("fmsci/world/ranks.py", "import torch", "uses torch, which only dataset"),
        ("fmsci/study/fit.py", "import torch", "uses torch, which only dataset"),
        ("fmsci/pde/grid.py", "from torch import Tensor", "uses torch, which only dataset"),
        ("fmsci/train/loop.py", "from torch.utils.tensorboard import SummaryWriter", "which only train.journal and"),
        ("fmsci/train/loop.py", "import matplotlib.pyplot as plt", "uses matplotlib, which only figures and"),
        ("fmsci/cli.py", "import yaml", "uses yaml, which only config may"),
        ("fmsci/cli.py", "def f():\n    from rich.table import Table", "uses rich, which only terminal may"),
        ("fmsci/train/loop.py", "import typer", "uses typer, which only cli may"),
        (
            "fmsci/engine/ddp.py",
            "from safetensors.torch import load_file",
            "uses safetensors, which only tensors may",
        ),
        ("fmsci/files.py", "import os\nos.environ['A']", "files.py:2: uses os.environ, which only world may"),
        ("fmsci/files.py", "import os as system\nsystem.getenv('A')", "uses os.getenv, which only world may"),
        ("fmsci/files.py", "from os import environ", "uses os.environ, which only world may"),
        ("fmsci/__init__.py", "import torch", "uses torch, which only dataset"),
    ],
)
def test_broken_rules_are_seen(path: str, source: str, message: str) -> None:
    found = violations(source, path)
    assert found
    assert all(message in line and line.startswith(path + ":") for line in found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("fmsci/cli.py", "from fmsci.train import loop\nfrom fmsci.errors import UserError\nimport typer"),
        ("fmsci/train/loop.py", "from fmsci.train.optim import build\nfrom . import monitor\nfrom ..engine import api"),
        ("fmsci/config/load.py", "from fmsci.world import World\nimport yaml, pydantic"),
        (
            "fmsci/engine/zero.py",
            "import torch.distributed as dist\nimport torch\nimport deepspeed\ntorch.distributed.barrier()",
        ),
        ("fmsci/world/ranks.py", "import os\nimport torch.distributed as dist\nos.environ['RANK']"),
        ("fmsci/train/journal.py", "from torch.utils.tensorboard import SummaryWriter\nimport torch"),
        ("fmsci/files.py", "import os\nos.replace('a', 'b')\nenvironment = {}\nenvironment.environ = 1"),
        ("fmsci/generate/run.py", "from fmsci import __version__\nfrom mpi4py import MPI"),
        ("fmsci/generate/run.py", "import fmsci\nfmsci.__version__"),
        ("fmsci/__init__.py", "def load(path):\n    from fmsci.model_folder import load\n    return load(path)"),
    ],
)
def test_sound_imports_pass(path: str, source: str) -> None:
    assert violations(source, path) == []


def test_the_list_of_rooms_in_the_documents_is_this_one() -> None:
    page = (ROOT / "docs/concepts.md").read_text().partition("from one line to those below:")[2].partition("`tests")[0]
    assert [line.split() for line in page.strip().splitlines()] == LAYERS[1:]


def test_every_owner_is_a_room() -> None:
    assert {owner.partition(".")[0] for owners in OWNERS.values() for owner in owners} <= set(LEVEL)


# ------------------------------------------------------------------ what starts must be light


HEAVY = ["torch", "mpi4py", "h5py", "numpy", "matplotlib", "deepspeed", "tensorboard"]
HELP = """
import sys
sys.argv = ["fmsci", "--help"]
from fmsci.cli import main
try:
    main()
except SystemExit as leaving:
    assert not leaving.code, leaving.code
"""


@pytest.mark.parametrize("code", ["import fmsci", HELP], ids=["import fmsci", "fmsci --help"])
def test_starting_imports_nothing_heavy(code: str) -> None:
    code += f"\nimport json, sys\nprint(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize(
    "words",
    [
        "scaling plan",
        "study STUDY plan",
        "study STUDY submit --site local --dry-run",
        "submit finetune TRAIN run=RUN --site local --dry-run",
        "submit evaluate MODEL --data DATA --site local --dry-run",
    ],
)
def test_what_is_planned_on_a_login_node_needs_no_torch(
    words: str, trained: Path, train_config: Path, poisson_data: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study.yaml"
    models, tasks = {"m": {"folder": str(trained / "model")}}, {"t": str(poisson_data)}
    told = {"study": "q1", "run": str(tmp_path / "study"), "models": models, "tasks": tasks, "train": str(train_config)}
    study.write_text(json.dumps(told | {"samples": [10], "steps": 3}))
    places = {"STUDY": study, "TRAIN": train_config, "RUN": tmp_path / "run", "MODEL": trained / "model"}
    places["DATA"] = poisson_data
    for name, place in places.items():
        words = words.replace(name, str(place))
    code = HELP.replace('"--help"', ", ".join(map(repr, words.split())))
    code += "\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


def test_help_comes_at_once() -> None:
    """Under 0.3 s for a real process, the best of a few; in CPU time, since other tests share the cores."""
    command = [Path(sys.executable).with_name("fmsci"), "--help"]
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
        assert "fmsci" in done.stdout
    assert min(took) < 0.3, f"fmsci --help took {min(took):.2f} s at best; something heavy is imported too early"
