"""What a run leaves behind: TensorBoard and JSON lines read back, no doubled points after a restart."""

import json
import os
import re
import shutil
import signal
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fmsci.figures import comparison_figure, field_comparison
from fmsci.train import pictures
from fmsci.train.state import State
from fmsci.world import World
from tests.commands import MPIEXEC, clean_environment, run
from tests.conftest import TRAINING
from tests.train.test_resume import LONG, start, wait_for_step
from tests.warm import warm


def events(folder):
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


CURVES = ["train/loss", "train/rel_l2", "train/lr", "train/grad_norm", "valid/poisson/rel_l2", "valid/poisson/loss"]
CURVES += ["perf/samples_per_s", "perf/step_ms", "perf/data_wait_pct", "perf/comm_pct", "perf/flops_utilisation"]
CURVES += ["perf/slowest_rank", "perf/slowest_rank_ms", "perf/fastest_rank", "perf/fastest_rank_ms"]
CURVES += ["memory/peak_gib"]


def entries(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_and_json_lines_tell_the_same(trained):
    found, lines = events(trained), entries(trained)
    assert set(found.Tags()["scalars"]) == {*CURVES, "final/valid_rel_l2"}
    for name in CURVES:
        points = {point.step: point.value for point in found.Scalars(name)}
        assert points == pytest.approx({line["step"]: line[name] for line in lines if name in line}, rel=1e-6)
        first = 0 if name.startswith("valid") else 1
        assert [point.step for point in found.Scalars(name)] == list(range(first, 13, 3 if first == 0 else 1))


def test_training_and_validation_tell_the_loss_that_was_asked_for(trained, train_config, tmp_path):
    """The relative one starts as the mean square of relative errors; the squared one as something else."""
    run(["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, "optim.loss=relative"])
    for lines, alike in ((entries(tmp_path / "run"), True), (entries(trained), False)):
        first, validated = (
            next(line for line in lines if name in line) for name in ("train/loss", "valid/poisson/loss")
        )
        for loss, error in (
            (first["train/loss"], first["train/rel_l2"]),
            (validated["valid/poisson/loss"], validated["valid/poisson/rel_l2"]),
        ):
            assert (loss == pytest.approx(error**2, rel=0.2)) == alike


def test_the_settings_shown_are_those_of_the_run_folder(trained):
    (shown,) = events(trained).Tensors("settings/text_summary")
    (text,) = shown.tensor_proto.string_val
    assert (shown.step, text.decode()) == (0, f"```yaml\n{(trained / 'config.yaml').read_text()}```")


def test_the_figures_of_a_stretch_fit_each_other(trained):
    for line in entries(trained):
        if "perf/step_ms" not in line:
            continue
        batch = 3 if line["step"] % 3 == 0 else 5
        assert line["perf/samples_per_s"] * line["perf/step_ms"] == pytest.approx(1000 * batch)
        assert line["perf/data_wait_pct"] == pytest.approx(100 * line["perf/data_wait"])
        assert 0 <= line["perf/data_wait_pct"] <= 100
        assert (line["perf/comm_pct"], line["perf/ranks"], line["perf/slowest_rank"]) == (0, 1, 0)
        assert line["perf/slowest_rank_ms"] == line["perf/fastest_rank_ms"] == pytest.approx(line["perf/step_ms"])
        assert 0 < line["perf/flops_utilisation"] < 1
        assert 0.1 < line["memory/peak_gib"] < 8


def test_the_page_of_custom_scalars_shows_curves_that_are_there(trained):
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    found = events(trained)
    written = found.Tensors("custom_scalars__config__")
    assert len(written) == 1
    page = Layout.FromString(written[0].tensor_proto.string_val[0])
    shown = {tag for part in page.category for chart in part.chart for tag in chart.multiline.tag}
    tags = [*CURVES, "spectrum/poisson/kept", "spectrum/poisson/beyond"]
    assert all(any(re.search(one, tag) for tag in tags) for one in shown)
    hidden = {tag for tag in CURVES if not any(re.search(one, tag) for one in shown)}
    assert hidden == {"perf/slowest_rank", "perf/fastest_rank"}  # numbers of ranks, no curves


@pytest.mark.distributed
def test_a_slow_rank_is_found_among_several(train_config, tmp_path):
    folder = tmp_path / "run"
    command = [str(MPIEXEC), "-n", "3", *warm(["-m", "tests.train.straggler", train_config, folder, "1", "0.2"])]
    subprocess.run(command, env=clean_environment(), check=True, timeout=200, capture_output=True)
    lines = [line for line in entries(folder) if "perf/ranks" in line]
    assert [line["perf/ranks"] for line in lines] == [3] * 12
    later = lines[2:]  # the first steps make constants
    found = [line for line in later if line["perf/slowest_rank"] == 1 and line["perf/fastest_rank"] in {0, 2}]
    assert len(found) >= 8  # a busy machine has moods of its own
    assert np.median([line["perf/slowest_rank_ms"] for line in later]) > 190
    wait = np.median([line["perf/step_ms"] - line["perf/fastest_rank_ms"] for line in later])
    assert wait > 100  # the fast ones wait most of the 200 ms
    assert np.median([line["perf/comm_pct"] for line in later]) > 20  # mean of three ranks, of which one waits little


def test_the_learning_rate_falls_from_its_peak_to_zero(trained):
    values = [point.value for point in events(trained).Scalars("train/lr")]
    assert values[0] == pytest.approx(3e-3)
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < 1e-4


def test_a_restart_leaves_one_point_per_step(train_config, tmp_path):
    arguments = ["train", train_config, f"run={tmp_path / 'run'}", *LONG, "monitor.pictures=true"]
    for step in (3, 10, 60):  # the first before there is a checkpoint
        process = start(arguments)
        wait_for_step(process, tmp_path / "run", step)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    run(arguments)
    found = events(tmp_path / "run")
    for name in CURVES:
        every = range(0, 121, 3) if name.startswith("valid") else range(1, 121)
        assert [point.step for point in found.Scalars(name)] == list(every), name
    for name in ("spectrum/poisson/kept", "spectrum/poisson/beyond"):
        assert [point.step for point in found.Scalars(name)] == list(range(0, 121, 3)), name
    for name in ("valid/poisson/fields", "valid/poisson/spectrum"):
        steps = [image.step for image in found.Images(name)]
        assert steps == sorted(set(steps)), name
        assert (len(steps) > 1, steps[0] > 0, steps[-1]) == (True, True, 120), name


def test_pictures_take_half_a_percent_of_the_time(monkeypatch):
    now = [1000.0]

    def drawn(*fields):
        now[0] += 0.5
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(pictures, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(pictures, "field_comparison", drawn)
    monitor = SimpleNamespace(pictures=True)
    job = SimpleNamespace(
        settings=SimpleNamespace(monitor=monitor), num_steps=90, world=World(), device=torch.device("cpu")
    )
    shown = pictures.Pictures(job)

    def due_at(seconds, step=30, improved=True):
        now[0] = 1000.0 + seconds
        return shown.due(State(step=step), improved)

    assert not due_at(1, step=0)  # before training there is nothing to see
    assert not due_at(1, improved=False)
    assert due_at(1)  # the first improvement, whatever it takes
    shown.draw((None, None, None), None, "")
    assert not due_at(99)
    assert due_at(101)
    shown.draw((None, None, None), None, "")
    assert not due_at(199)
    assert due_at(199, step=90, improved=False)  # the last step always
    assert due_at(201)
    monitor.pictures = False
    assert not due_at(1e6)
    assert not due_at(1e6, step=90)


def test_pictures_of_fields_come_with_an_improved_error(train_config, tmp_path):
    run(["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, "monitor.pictures=true"])
    found = events(tmp_path / "run")
    for name in ("valid/poisson/fields", "valid/poisson/spectrum"):
        images = found.Images(name)
        assert images[0].width > images[0].height > 100
        # After the first improvement, then as time allows: the last step has one whatever there was before.
        assert (images[0].step, images[-1].step) == (3, 12)
    for line in entries(tmp_path / "run"):
        if "valid/poisson/rel_l2" in line:
            kept, beyond = (line[f"spectrum/poisson/{band}"] for band in ("kept", "beyond"))
            assert np.hypot(kept, beyond) >= line["valid/poisson/rel_l2"] * (1 - 1e-6)  # mean square over square mean


def test_the_result_and_the_model_folder_say_the_same(trained):
    result = json.loads((trained / "result.json").read_text())
    config = json.loads((trained / "model" / "config.json").read_text())
    assert result["best"] == {
        "valid_rel_l2": config["measured"]["valid_rel_l2"],
        "step": config["measured"]["step"],
    }
    assert (result["steps"], result["samples_seen"], result["train_samples"]) == (12, 52, 13)
    assert json.loads((trained / "outcome.json").read_text()) == {
        "status": "finished",
        "why": "all 12 steps",
        "step": 12,
    }


def test_solution_and_prediction_share_one_colour_scale_and_the_error_is_written():
    rng = np.random.default_rng(0)
    source, solution, predicted = (rng.standard_normal((2, 8, 8)).astype(np.float32) for _ in range(3))
    figure = comparison_figure(source, solution, predicted)
    panels = [axis for axis in figure.axes if axis.images]
    assert len(panels) == 8
    for row in range(2):
        shown = panels[4 * row : 4 * row + 4]
        assert np.array_equal(shown[3].images[0].get_array(), predicted[row] - solution[row])
        assert shown[1].images[0].get_clim() == shown[2].images[0].get_clim()
        relative = np.linalg.norm(predicted[row] - solution[row]) / np.linalg.norm(solution[row])
        assert f"{relative:.3f}" in shown[3].get_title()
    assert field_comparison(source, solution, predicted).shape[2] == 3


def test_a_diverged_run_stops_with_a_sentence(train_config, tmp_path):
    arguments = ["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, "optim.lr=1e18"]
    printed = run(arguments, code=2)
    assert "is nan at step 2 (training samples " in printed
    assert "training diverged; there is no checkpoint yet; in another run= lower optim.lr (now 1e+18)" in printed
    assert json.loads((tmp_path / "run" / "outcome.json").read_text())["status"] == "failed"


def test_a_finished_run_is_finished_without_its_line_in_hparams(trained, train_config, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(folder / "tensorboard")
    (folder / "tensorboard").write_text("a file")
    (folder / "outcome.json").unlink()
    said = run(["train", train_config, f"run={folder}", *TRAINING])
    assert f"fmsci: {folder} has no line in TensorBoard's HParams: File exists; the run is finished\n" in said
    assert json.loads((folder / "outcome.json").read_text())["status"] == "finished"


def test_a_finished_run_has_its_line_in_hparams_in_its_own_folder(trained, train_config, poisson_data, tmp_path):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    folder = tmp_path / "run"
    arguments = ["train", train_config, f"run={folder}", *TRAINING, "optim.epochs=1", f"init={trained / 'model'}"]
    arguments = [word for word in arguments if not str(word).startswith("model.")]
    run([*arguments, "--test"])
    run([*arguments, "--test"])  # finished already: the line is replaced
    assert len(list(folder.glob("tensorboard/*.hparams"))) == 1
    assert not [path for path in folder.glob("tensorboard/*") if path.is_dir()]
    found = events(folder)
    test = json.loads((folder / "evaluations" / f"{poisson_data.name}-test.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    for name, value in (("test", test["rel_l2"]), ("valid", result["best"]["valid_rel_l2"])):
        (point,) = found.Scalars(f"final/{name}_rel_l2")
        assert (point.step, point.value) == (3, pytest.approx(value, rel=1e-6))
    content = found.PluginTagToContent("hparams")
    facts = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info.hparams
    assert facts["arm"].string_value == "fine-tuned"
    assert facts["init"].string_value == str(trained / "model")
    assert (facts["lr"].number_value, facts["train_samples"].number_value) == (pytest.approx(3e-3), 13)
    shown = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    assert {info.name.tag for info in shown.metric_infos} == {"final/valid_rel_l2", "final/test_rel_l2"}
