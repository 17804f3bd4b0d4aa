"""A dry run tells the floor of the local batch where the device's steps are measured, and is silent elsewhere."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fmsci.cli import app
from fmsci.config import ScalingSettings, TrainSettings, load_settings
from fmsci.config.sections import EngineSettings
from fmsci.engine import device
from fmsci.scaling.floor import local_floor
from fmsci.scaling.project import project
from fmsci.train.dry_run import dry_run
from tests.commands import run

ROOT = Path(__file__).parents[2]
H100 = "NVIDIA H100 80GB HBM3"
LARGE = ["model.size=256M", "optim.batch_size=2", "engine.precision=bf16"]


@pytest.fixture(scope="module")
def fine_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fine") / "data"
    sizes = ["--grid", "128", "--train", "4", "--valid", "1", "--test", "1"]
    run(["generate", "--system", "poisson", "--range", "1", "5", *sizes, "--output", folder])
    return folder


@pytest.fixture
def asked(fine_data, tmp_path, monkeypatch):
    """What a run of 256M at 128 x 128 asks for, and its facts on so many ranks."""
    monkeypatch.chdir(ROOT)
    config = tmp_path / "train.yaml"
    config.write_text(f"run: {tmp_path / 'run'}\ndata: {{path: {fine_data}}}\noptim: {{epochs: 1}}\n")

    def ask(ranks, *more):
        settings = load_settings(TrainSettings, config, [*LARGE, *more])
        return settings, dry_run(settings, ranks)

    return ask


@pytest.mark.parametrize("compress", [False, True])
def test_the_floor_is_that_of_the_projection(asked, compress, tmp_path):
    settings, facts = asked(32, f"engine.compress={str(compress).lower()}", "optim.batch_size=4")
    name, value = local_floor(settings, facts, H100, 4)
    plan = load_settings(ScalingSettings, Path("configs/scaling/h100.yaml"), [f"run={tmp_path}", "weak=[32]"])
    plan = plan.model_copy(update={"engines": {"ddp": EngineSettings(compress=compress)}})
    ((row,),) = project(plan, "8", 4, "256M", "bf16", None).tables.values()
    assert row.floor > 10
    assert name == "local batch and its floor"
    assert value == (
        f"1 of a rank; below {row.floor} the exchange takes longer than computing (projected from "
        f"configs/scaling/h100.yaml, {H100}, 8 node(s), links ASSUMED)"
    )


def test_a_small_model_has_no_floor_there(asked):
    settings, facts = asked(8, "model.size=16M")
    assert "no floor: computing takes longer than the exchange" in local_floor(settings, facts, H100, 4)[1]


@pytest.mark.parametrize(
    ("ranks", "more", "name"),
    [
        (1, [], H100),  # nothing is exchanged
        (8, [], "NVIDIA A100-SXM4-80GB"),
        (8, ["model.size=256M", "model.layers=2"], H100),
        (8, ["engine.recompute=2"], H100),
        (8, ["engine.transform=fft"], H100),
    ],
)
def test_what_nobody_measured_has_no_floor(asked, ranks, more, name):
    settings, facts = asked(ranks, *more)
    assert local_floor(settings, facts, name, 4) is None


def test_another_grid_or_another_folder_has_none(asked, tmp_path, monkeypatch):
    settings, facts = asked(8)
    assert local_floor(settings, facts, H100, 4)
    assert local_floor(settings, facts | {"grid": 64}, H100, 4) is None
    monkeypatch.chdir(tmp_path)
    assert local_floor(settings, facts, H100, 4) is None


def test_a_damaged_file_of_measured_steps_ends_no_dry_run(asked, tmp_path, capsys):
    settings, facts = asked(8)
    source = tmp_path / "h100.yaml"
    for content in (
        "run: [",
        "{run: x, world_sizes: 0}",
        f"{{run: {tmp_path}, world_sizes: [1], measured: [none.json]}}",
    ):
        source.write_text(content)
        assert local_floor(settings, facts, H100, 4, source) is None
        assert "no floor of the local batch is told: " in capsys.readouterr().err


def test_a_gpu_that_does_not_answer_has_no_name(monkeypatch):
    def refused(index):
        raise RuntimeError("CUDA-capable device(s) is/are busy or unavailable")

    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "get_device_name", refused)
    assert device.gpu_name("auto") is None


def test_the_command_shows_it_on_such_a_gpu_and_nowhere_else(asked, tmp_path, monkeypatch):
    asked(1)
    words = ["train", str(tmp_path / "train.yaml"), *LARGE, "--dry-run", "--world-size", "8", "--json"]

    def said(*more):
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    plain = said()
    if not device.torch.cuda.is_available():
        assert "local batch and its floor" not in plain
    monkeypatch.setattr(device, "gpu_name", lambda wanted: None if wanted == "cpu" else H100)
    monkeypatch.setattr(device, "num_devices", lambda: 4)
    assert re.search(r"local batch and its floor.*below \d+", said())
    assert "local batch and its floor" not in said("engine.device=cpu")
    assert json.loads(plain[plain.rindex("{") :])["grid"] == 128


def test_a_dry_run_on_a_cpu_says_nothing_of_a_floor(asked, tmp_path):
    """The same run that has one on such a GPU, see above."""
    asked(1)
    words = ["train", tmp_path / "train.yaml", *LARGE, "engine.device=cpu", "--dry-run", "--world-size", "8"]
    said = run(words, cwd=ROOT)
    assert "sent by each rank" in said
    assert "floor" not in said
