"""A small real study: planned as a pure function, made by real processes, interrupted, continued, reported."""

import json
import signal
import subprocess
import time

import pytest

from fmsci.config import StudySettings, load_settings
from fmsci.figures import error_curves, save_figure
from fmsci.study.collect import Row, Table
from fmsci.study.execute import finished, steps_done
from fmsci.study.plan import epochs_for, plan
from fmsci.study.report import expectation
from tests.commands import clean_environment, command, run
from tests.conftest import TRAINING


@pytest.fixture(scope="module")
def config(tmp_path_factory, train_config, trained):
    folder = tmp_path_factory.mktemp("study")
    path = folder / "study.yaml"
    overrides = [item for item in TRAINING if not item.startswith(("engine.", "optim.epochs"))]
    path.write_text(
        f"study: q1\nrun: {folder / 'study'}\npretrained: {trained / 'model'}\ntrain: {train_config}\n"
        f"samples: [4, 13]\nsteps: 60\nworkers: 2\noverrides: {json.dumps(overrides)}\n"
    )
    return path


@pytest.mark.parametrize(
    ("steps", "samples", "batch", "epochs"), [(300, 16, 16, 300), (300, 256, 16, 19), (1, 5, 2, 1)]
)
def test_every_run_takes_the_same_steps_up_to_an_epoch(steps, samples, batch, epochs):
    assert epochs_for(steps, samples, batch) == epochs


def test_the_plan_pairs_fine_tuning_with_scratch(config, trained):
    settings = load_settings(StudySettings, config)
    runs = plan(settings)
    assert [(r.arm, r.samples) for r in runs] == [("finetune", 4), ("scratch", 4), ("finetune", 13), ("scratch", 13)]
    assert all(r.steps >= 60 for r in runs)
    for r in runs:
        inits = [item for item in r.overrides if item.startswith("init=")]
        assert inits == (["init=null"] if r.arm == "scratch" else [f"init={trained / 'model'}"])
        assert f"data.train_samples={r.samples}" in r.overrides
    assert plan(settings) == runs


def test_the_plan_tells_a_job_script_what_each_run_needs(config):
    runs = plan(load_settings(StudySettings, config))
    for number in (0, 3):
        words = run(["study", config, "plan", "--arguments-of", number]).splitlines()
        assert words == [str(load_settings(StudySettings, config).train), *runs[number].overrides]
    told = json.loads(run(["study", config, "plan", "--json"]).splitlines()[-1])
    assert [(fact["run"], fact["steps"]) for fact in told] == [(str(r.folder), r.steps) for r in runs]
    assert [fact["finished"] for fact in told] == [finished(r) for r in runs]
    said = run(["study", config, "plan", "--arguments-of", 4], code=2)
    assert "there is no run 4" in said
    assert "has the runs 0 to 3" in said


def test_a_study_runs_stops_continues_and_reports(config):
    settings = load_settings(StudySettings, config)
    process = subprocess.Popen(
        command(["study", config, "run"]),
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    runs = plan(settings)
    deadline = time.monotonic() + 120
    while not any(steps_done(r.folder) >= 5 for r in runs):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 75, printed
    assert not all(finished(r) for r in runs)

    printed = run(["study", config, "run", "--json"])
    document = json.loads(printed.splitlines()[-1])
    assert [row["samples"] for row in document["rows"]] == [4, 13]
    for row in document["rows"]:
        for arm, name in (("finetune", "finetuned"), ("scratch", "scratch")):
            folder = settings.run / f"{arm}-{row['samples']}"
            (evaluation,) = (folder / "evaluations").glob("*.json")
            assert row[name] == json.loads(evaluation.read_text())["rel_l2"]
            assert json.loads(evaluation.read_text())["count"] == 5  # the whole test split
        assert row["ratio"] == pytest.approx(row["finetuned"] / row["scratch"])
    assert (settings.run / "errors.png").read_bytes().startswith(b"\x89PNG")
    assert f"{document['rows'][0]['finetuned']:.4f}" in (settings.run / "report.md").read_text()

    before = {r.folder: (r.folder / "result.json").stat().st_mtime_ns for r in runs}
    assert "finished already" in run(["study", config, "run"])
    assert {r.folder: (r.folder / "result.json").stat().st_mtime_ns for r in runs} == before


def test_a_report_of_a_part_says_what_is_missing(config, tmp_path):
    printed = run(["study", config, "report", f"run={tmp_path}"], code=2)
    assert f"no run of {tmp_path} is finished" in printed


def test_a_mistake_in_any_run_is_told_before_one_starts(config, tmp_path):
    printed = run(["study", config, "run", f"run={tmp_path / 's'}", "samples=[4, 999]"], code=2)
    assert "has 13 train samples, 999 were asked for" in printed
    assert not (tmp_path / "s").exists()


def test_a_failing_run_is_told_with_the_reason_and_the_log(config, tmp_path):
    overrides = [f"run={tmp_path}", "samples=[4]", "overrides=[model.width=4, model.modes=4, optim.lr=1e18]"]
    printed = run(["study", config, "run", *overrides], code=2)
    assert "the run scratch-4 failed: the " in printed or "the run finetune-4 failed: the " in printed
    assert "training diverged" in printed
    assert "-4/log.txt" in printed


def test_finished_runs_with_other_settings_are_not_taken_for_these(config):
    settings = load_settings(StudySettings, config)
    run(["study", config, "run"])
    changed = json.dumps([*settings.overrides, "optim.lr=0.5"])
    printed = run(["study", config, "run", f"overrides={changed}"], code=2)
    assert "holds a run with optim.lr=0.003, not 0.5" in printed


def test_another_evaluation_of_a_run_is_not_taken_for_its_result(config, poisson_data, tmp_path):
    settings = load_settings(StudySettings, config)
    run(["study", config, "run"])
    before = json.loads((settings.run / "table.json").read_text())
    other = tmp_path / "other"
    other.symlink_to(poisson_data)
    run(["evaluate", settings.run / "scratch-4" / "model", "--data", other])
    run(["study", config, "report"])
    assert json.loads((settings.run / "table.json").read_text()) == before


def test_a_study_on_several_ranks_is_refused(config):
    printed = run(["study", config, "run"], ranks=2, code=2)
    assert printed.count("run it as one, without mpiexec, srun or torchrun") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=lambda n: n.name)
def test_a_study_that_dies_leaves_no_run_behind(config, tmp_path, number):
    process = subprocess.Popen(
        command(["study", config, "run", f"run={tmp_path}", "samples=[13]", "steps=3000"]),
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while steps_done(tmp_path / "scratch-13") < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    process.wait(timeout=60)
    while subprocess.run(["pgrep", "-f", f"fmsci train .*{tmp_path}"], capture_output=True, check=False).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert json.loads((tmp_path / "scratch-13" / "outcome.json").read_text())["status"] == "saved"


def test_a_missing_pretrained_model_is_told_before_anything_starts(config, tmp_path):
    printed = run(["study", config, "run", f"run={tmp_path / 's'}", f"pretrained={tmp_path / 'none'}"], code=2)
    assert f"there is no pretrained model in {tmp_path / 'none'}" in printed
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("ratio", "missed"),
    [
        (0.4, None),
        (1.0, "with 16 samples error(fine-tuned) / error(scratch) is 1.000, not below 0.9"),
        (None, "not finished"),
    ],
)
def test_the_expectation_is_held_at_every_number_of_samples(config, ratio, missed):
    settings = load_settings(StudySettings, config, ["ratio_below=0.9"])
    found = expectation(settings, {"rows": [{"samples": 16, "ratio": ratio}]})
    assert found == missed if missed is None else missed in found


def test_a_missed_expectation_fails_the_command(config):
    printed = run(["study", config, "run", "ratio_below=1e-9"], code=1)
    assert "not as expected: with 4 samples" in printed


def test_rows_never_guess_a_ratio():
    assert Row(4, 0.1, None).ratio is None
    assert Row(4, 0.1, 0.4).ratio == pytest.approx(0.25)
    assert Table((), None).zero_shot is None


def test_curves_hold_the_points_they_were_given(tmp_path):
    figure = error_curves({"a": [(16, 0.5), (64, 0.25)]}, "title", {"zero-shot": 0.3})
    (axis,) = figure.axes
    assert axis.lines[0].get_xydata().tolist() == [[16, 0.5], [64, 0.25]]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "zero-shot (0.300)"]
    save_figure(figure, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5000
