"""A user's mistake, through the real command: exit code 2, one line on stderr, nothing made on disk."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fmsci import __version__
from tests.commands import MPIEXEC, clean_environment

FMSCI = Path(sys.executable).with_name("fmsci")
TRAIN = "run: runs/x\ndata: {path: data}\noptim: {epochs: 3}\n"
GENERATE = "system: poisson\nrange: [1, 5]\ntrain: 4\nvalid: 4\ntest: 4\noutput: out\n"
FILES = {
    "train.yaml": TRAIN.encode(),
    "generate.yaml": GENERATE.encode(),
    "twice.yaml": b"run: a\nrun: b\n",
    "list.yaml": b"- run\n",
    "binary.yaml": b"\x89PNG\r\n\x00\xff",
    "empty.yaml": b"",
    "study.yaml": b"study: q1\nrun: r\nmodels: {m: {folder: p}}\ntasks: {t: d}\ntrain: train.yaml\n"
    b"samples: []\nsteps: 3\n",
}


@pytest.fixture
def place(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    for name in ("a", "b"):
        (tmp_path / "taken" / name).mkdir(parents=True)
        (tmp_path / "taken" / name / "manifest.json").write_text("{}")
    (tmp_path / "taken" / "thesis.txt").touch()
    return tmp_path


def fmsci(place, *arguments, launcher=(), **environment):
    command = [*launcher, FMSCI, *arguments]
    return subprocess.run(
        [str(part) for part in command],
        cwd=place,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def everything(place):
    return {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.is_file()} | {
        path.relative_to(place): None for path in place.rglob("*") if path.is_dir()
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        # settings
        ("train no.yaml", "there is no settings file no.yaml; give the path of a YAML file, such as those in configs/"),
        ("train folder", "the settings file folder cannot be read: Is a directory"),
        ("train twice.yaml", "the key 'run' is given twice (line 2 of twice.yaml); keep one"),
        ("train list.yaml", "list.yaml: settings are 'key: value' lines, not list"),
        ("train binary.yaml", "the settings file binary.yaml is no text: 'utf-8' codec can't decode byte 0x89 in "
         "position 0: invalid start byte"),
        ("train empty.yaml", "empty.yaml: the setting 'run' is missing"),
        ("train train.yaml optim.lr=true", "train.yaml with optim.lr=true: 'optim.lr' is true but should not be true "
         "or false"),
        ("train train.yaml model.sise=1M --dry-run", "train.yaml with model.sise=1M: unknown setting 'model.sise' (did "
         "you mean 'size'?); allowed here: size, width, modes, layers, initial"),
        ("train train.yaml model.size=1M model.width=8 model.modes=8", "train.yaml with model.size=1M model.width=8 "
         "model.modes=8: 'model' is {'size': '1M', 'width': 8, 'modes': 8} but should have size, or width and modes, "
         "not all three: nothing is left for size to set "
         "(model.width=null model.modes=null leaves it to size)"),
        ("train train.yaml engine.threads=99999999999", "train.yaml with engine.threads=99999999999: 'engine.threads' "
         "is 99999999999 but should be less than or equal to 4096"),
        ("train train.yaml engine.timeout_s=1e15", "train.yaml with engine.timeout_s=1e15: 'engine.timeout_s' is "
         "'1e15' but should be less than or equal to 31622400"),
        ("train train.yaml optim", "'optim' is not a setting; write key=value or key.sub=value"),
        ("train optim.lr=3", "there is no settings file optim.lr=3; give the path of a YAML file, such as those in "
         "configs/"),
        ("generate generate.yaml range=[5,1]", "generate.yaml with range=[5,1]: range is [5.0, 1.0] but the first "
         "number should not exceed the second"),
        ("generate --system poisson", "the command line: the setting 'range' is missing"),
        ("generate generate.yaml range=[1,1e300]", "generate.yaml with range=[1,1e300]: 'range.1' is '1e300' "
         "but should be less than or equal to 1000000"),
        ("generate --range 1", "--range needs two numbers, LO HI, as in --range 1 5; see 'fmsci --help'"),
        ("generate --range 1 --grid 8", "--range needs two numbers, LO HI, as in --range 1 5; see 'fmsci generate "
         "--help'"),
        ("generate train.yaml", "train.yaml is a file for fmsci train; give one that fits this command"),
        ("train generate.yaml", "generate.yaml is a file for fmsci generate; give one that fits this command"),
        ("study generate.yaml run", "generate.yaml is a file for fmsci generate; give one that fits this command"),
        ("study study.yaml run", "study.yaml: 'samples' is [] but should have at least 1 item"),
        # things that the settings name
        ("train train.yaml", "data is no data folder: manifest.json is missing (data does not exist)"),
        ("train train.yaml run=" + "n" * 300, f"cannot use {'n' * 300}/config.yaml: File name too long; give another "
         "path"),
        ("train train.yaml run=list.yaml", "list.yaml is a file, not a folder; choose another run="),
        ("train train.yaml run=taken", "taken is no new folder: it holds a; choose another run="),
        ("train train.yaml run=taken --dry-run", "taken is no new folder: it holds a; choose another run="),
        ("generate generate.yaml output=list.yaml", "list.yaml is a file, not a folder; give another output folder"),
        ("generate generate.yaml output=taken", "taken is no new folder: it holds a; give another output "
         "folder"),
        ("generate generate.yaml train=999999999999 shard_samples=9999999", "out needs "),  # more than any disk has
        ("generate generate.yaml train=999999999999", "shard_samples=256 makes 3,906,250,002 files, a data folder has "
         "300,000 at most; give shard_samples=3333367 or more"),
        ("data info taken", "taken is no data folder but holds some: a, b; give the path of one"),
        ("evaluate folder --data data", "folder is no model folder: it has no config.json; give a folder such as "
         "RUN/model"),
        ("data info folder", "folder is no data folder: manifest.json is missing (folder holds no data)"),
        ("data info list.yaml", "list.yaml is a file, not a data folder; give the path of one"),
        ("train train.yaml data.path=list.yaml", "list.yaml is a file, not a data folder; give the path of one"),
        ("predict folder --input train.yaml --output o.h5", "train.yaml is not an HDF5 file that can be read: "
         "Unable to "),
        ("predict folder --input no.h5 --output o.h5", "there is no file no.h5"),
        ("predict folder --output o.h5", "Missing option '--input'; see 'fmsci predict --help'"),
        ("model info folder", "folder is no model folder: it has no config.json; give a folder such as RUN/model"),
        ("model export folder --output m.pt2", "folder is no model folder: it has no config.json; give a folder such "
         "as RUN/model"),
        ("model push folder lab/x", "folder is no model folder: it has no config.json; give a folder such as "
         "RUN/model"),
        ("model push folder x", "'x' is no name on a hub; write OWNER/NAME, of letters, digits, '.', '_' and '-'"),
        ("model import list.yaml --system poison --output m", "--system is 'poison' (did you mean 'poisson'?) but "
         "should be one of poisson, advection_diffusion, helmholtz"),
        ("model import list.yaml --system poisson --output m", "the model needs the scales of its training data: give "
         "one of --scales and --data"),
        ("model import list.yaml --system poisson --scales list.yaml --output m", "list.yaml cannot be read as "
         "numbers: "),
        ("model import no.tar --system poisson --data data --output m", "data is no data folder: manifest.json is "
         "missing (data does not exist)"),
        ("submit pretrain train.yaml --nodes -2 --dry-run", "'-2' is no number of nodes; write it as 4, or as a range "
         "such as 2-4"),
        ("submit pretrain train.yaml --nodes 4-2 --dry-run", "'4-2' is no number of nodes; write it as 4, or as a "
         "range such as 2-4"),
        ("submit pretrain train.yaml --time banana --dry-run", "'banana' is no time limit; write it as 12:00:00 or "
         "1-06:00:00"),
        # the command itself
        ("trian", "No such command 'trian'. Did you mean 'train'?; see 'fmsci --help'"),
        ("train", "Missing argument 'config'; see 'fmsci train --help'"),
        ("train train.yaml --dry-runn", "No such option: --dry-runn (Possible options: --dry-run); see 'fmsci train "
         "--help'"),
        ("train train.yaml --dry-run --world-size x", "Invalid value for '--world-size': "),  # typer's words follow
        ("train train.yaml --dry-run --world-size 0", "Invalid value for '--world-size': "),
        ("evaluate folder --data data --split tset", "there is no split 'tset' (did you mean 'test'?); allowed: train, "
         "valid, test"),
        ("study study.yaml pln", "study can do plan, run, submit, report, not 'pln' (did you mean 'plan'?)"),
    ],
    ids=lambda value: value[:45],
)  # fmt: skip
def test_a_mistake_is_one_line_and_makes_nothing(place, arguments, sentence):
    before = everything(place)
    done = fmsci(place, *arguments.split())
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("fmsci: ")
    assert "Traceback" not in line
    assert line.startswith(f"fmsci: {sentence}") if sentence.endswith(" ") else line == f"fmsci: {sentence}"
    assert done.stdout == ""
    assert everything(place) == before


def test_the_version(place):
    done = fmsci(place, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fmsci {__version__}\n", "")


def test_a_value_of_several_lines_is_still_told_in_one(place):
    done = fmsci(place, "train", "train.yaml", "optim.lr=a\nb")
    assert done.returncode == 2
    assert done.stderr == "fmsci: train.yaml with optim.lr=a b: 'optim.lr' is 'a b' but should be a number\n"


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SLURM_NTASKS": "4"}, "this Slurm job has 4 tasks but the command was not started as a step of it; write "),
        ({"RANK": "0"}, "the launcher's variable WORLD_SIZE is missing; start with "),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' but should be a whole number; "),
    ],
)
@pytest.mark.parametrize("arguments", ["generate generate.yaml", "train train.yaml", "evaluate folder --data data"])
def test_a_launchers_mistake_is_never_a_silent_world_of_one(place, arguments, environment, sentence):
    before = everything(place)
    done = fmsci(place, *arguments.split(), **environment)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"fmsci: {sentence}")
    assert everything(place) == before


@pytest.mark.mpi
def test_every_rank_tells_a_mistake_and_ends(place):
    before = everything(place)
    done = fmsci(place, "train", "train.yaml", "optim.lr=0", launcher=[MPIEXEC, "-n", "2"])
    assert done.returncode == 2
    told = {line for line in done.stderr.splitlines() if line.startswith("fmsci: ")}
    assert told == {"fmsci: train.yaml with optim.lr=0: 'optim.lr' is 0 but should be greater than 0"}
    assert "Traceback" not in done.stderr
    assert everything(place) == before


@pytest.mark.mpi
def test_the_traceback_of_another_rank_says_whose_it_is(place):
    """Rank 1 has too little memory to load torch; rank 0 waits for it in vain."""
    poor = 'if [ "$PMI_RANK" = 1 ]; then ulimit -v 300000; fi; exec "$@"'
    launcher = [MPIEXEC, "-n", "2", "bash", "-c", poor, "rank"]
    done = fmsci(place, "train", "train.yaml", "engine.rendezvous_s=3", launcher=launcher)
    assert done.returncode != 0
    trace = [line for line in done.stderr.splitlines() if line.startswith(f"rank 1 on {socket.gethostname()}: ")]
    assert trace[0].endswith(": Traceback (most recent call last):")
    assert "Error: " in trace[-1]
    assert "\nTraceback" not in done.stderr
    assert "did not meet the others" in done.stderr


@pytest.mark.parametrize("arguments", ["--help", "data --help", "model --help"])
def test_no_sentence_about_a_command_is_cut_at_80_columns(place, arguments):
    told = fmsci(place, *arguments.split(), COLUMNS="80").stdout.partition("Commands:")[2].strip().splitlines()
    assert len(told) >= 4
    for line in told:
        name, sentence = line.split(maxsplit=1)
        assert sentence.endswith("."), f"{name}: no whole sentence: {sentence}"
        assert not sentence.endswith("..."), f"{name}: cut, as its first sentence is too long: {sentence}"


@pytest.mark.parametrize("arguments", ["", "--help", "-h", "data", "data --help", "model", "train --help", "study -h"])
def test_a_question_gets_help(place, arguments):
    done = fmsci(place, *arguments.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: fmsci")
