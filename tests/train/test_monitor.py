"""What a run leaves behind: TensorBoard and JSON lines read back, no doubled points after a restart."""

import json
import os
import signal

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fmsci.figures import comparison_figure, field_comparison
from tests.commands import run
from tests.conftest import TRAINING
from tests.train.test_resume import LONG, start, wait_for_step


def events(folder):
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def test_tensorboard_and_json_lines_tell_the_same(trained):
    found = events(trained)
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    for name in ("train/loss", "train/rel_l2", "train/lr", "valid/poisson/rel_l2", "perf/samples_per_s"):
        points = {point.step: point.value for point in found.Scalars(name)}
        assert points == pytest.approx({line["step"]: line[name] for line in lines if name in line}, rel=1e-6)
    assert [point.step for point in found.Scalars("train/loss")] == list(range(1, 13))
    assert "settings/text_summary" in found.Tags()["tensors"]


def test_the_learning_rate_falls_from_its_peak_to_zero(trained):
    values = [point.value for point in events(trained).Scalars("train/lr")]
    assert values[0] == pytest.approx(3e-3)
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < 1e-4


def test_a_restart_leaves_one_point_per_step(train_config, tmp_path):
    arguments = ["train", train_config, f"run={tmp_path / 'run'}", *LONG]
    for step in (3, 10, 60):  # the first before there is a checkpoint
        process = start(arguments)
        wait_for_step(process, tmp_path / "run", step)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    run(arguments)
    assert [point.step for point in events(tmp_path / "run").Scalars("train/loss")] == list(range(1, 121))


def test_pictures_of_fields_come_with_an_improved_error(train_config, tmp_path):
    run(["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, "monitor.pictures=true"])
    images = events(tmp_path / "run").Images("fields/poisson")
    assert images
    assert images[0].width > images[0].height > 100


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
