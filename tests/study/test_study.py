"""A small real study: made by real processes, interrupted, continued, reported; its mistakes told before it starts."""

import base64
import json
import re
import signal
import subprocess
import time
from html.parser import HTMLParser

import pytest
import torch

from fmsci.config import StudySettings, load_settings
from fmsci.locks import is_locked, lock
from fmsci.study.board import steps_done, valid_errors
from fmsci.study.plan import plan
from fmsci.study.pool import Pool, last_line
from fmsci.study.report import expectation
from tests.browser import look_at, needs_browser
from tests.commands import clean_environment, command, run

DOWNSTREAM = ["optim.batch_size=5", "optim.lr=3e-3", "monitor.every_steps=1", "monitor.pictures=false"]


@pytest.fixture(scope="module")
def config(tmp_path_factory, train_config, poisson_data, trained):
    folder = tmp_path_factory.mktemp("study")
    path = folder / "study.yaml"
    path.write_text(
        f"study: q1\nrun: {folder / 'study'}\nmodels: {{tiny: {{folder: {trained / 'model'}}}}}\n"
        f"tasks: {{same: {poisson_data}}}\ntrain: {train_config}\n"
        f"samples: [4]\nsteps: 60\nworkers: 2\nrates: [1e-3, 3e-3]\nseeds: [0, 1]\n"
        f"overrides: {json.dumps(DOWNSTREAM)}\n"
    )
    return path


def planned(config, *overrides):
    return plan(load_settings(StudySettings, config, overrides))


class Page(HTMLParser):
    """The parts of a report that matter: pictures, cells, links to elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.elsewhere, self.text, self.open = [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "img":
            self.sources.append(given["src"])
            assert given["alt"]
        elif given.keys() & {"src", "href"} or tag in {"script", "link", "iframe"}:
            self.elsewhere.append(tag)
        if tag not in {"img", "meta"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if "style" in self.open else data


def test_a_study_runs_stops_continues_and_reports(config):
    settings = load_settings(StudySettings, config)
    process = subprocess.Popen(
        command(["study", config, "run"]),
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    runs = plan(settings).sweep
    assert len(runs) == 4
    deadline = time.monotonic() + 120
    while not any(steps_done(r.folder) >= 5 for r in runs):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 75, printed
    assert "of 7 jobs are finished, what was running is saved" in printed
    assert not all(r.finished for r in runs)

    printed = run(["study", config, "run", "--json"])
    assert re.search(r": 100% of the training, took .*, 7 of 7 jobs\n", printed)
    document = json.loads(printed.splitlines()[-1])
    whole = plan(settings)
    errors = valid_errors(whole)
    assert [row["samples"] for row in document["rows"]] == [4]
    assert document["missing"] == []
    for row in document["rows"]:
        for arm, name in (("finetune", "finetuned"), ("scratch", "scratch")):
            mine = [r for r in whole.sweep if (r.arm, r.samples) == (arm, row["samples"])]
            best = min(mine, key=lambda r: errors[r.folder])
            again = next(r for r in whole.stage("repeats", errors) if (r.arm, r.samples) == (arm, row["samples"]))
            assert (again.rate, again.seed) == (best.rate, 1)
            tests = [json.loads(r.evaluation.read_text()) for r in (best, again)]
            assert [test["count"] for test in tests] == [5, 5]  # the whole test split
            assert {test["content"] for test in tests} == {best.tests[0].content}
            assert row[name] == pytest.approx(sum(test["rel_l2"] for test in tests) / 2)
            assert not (best.folder / "checkpoints").exists()
        assert row["ratio"] == pytest.approx(row["finetuned"] / row["scratch"])
    zero = json.loads(whole.zero_shot[0].results[0].read_text())
    assert document["zero_shot"] == [{"task": "same", "model": "tiny", "error": zero["rel_l2"]}]

    before = {r.folder: (r.folder / "result.json").stat().st_mtime_ns for r in runs}
    assert "all 7 jobs" in run(["study", config, "run"])
    assert {r.folder: (r.folder / "result.json").stat().st_mtime_ns for r in runs} == before

    page = Page((settings.run / "report.html").read_text())
    assert not page.elsewhere
    assert not page.open
    assert len(page.sources) == 4  # the curves, and fields: zero-shot, fine-tuned, from scratch
    for source in page.sources:
        kind, _, content = source.partition(";base64,")
        start = base64.b64decode(content)[:200]
        assert start.startswith(b"\x89PNG") if kind == "data:image/png" else b"<?xml" in start
    assert f"{document['rows'][0]['finetuned']:.4f}" in page.text
    assert "missing" not in page.text
    result = json.loads((runs[0].folder / "result.json").read_text())
    assert f"6 runs with torch {torch.__version__} on {result['device_name']}" in page.text
    assert result["device_name"] not in {"", "unknown", "cpu"}
    markdown = (settings.run / "report.md").read_text()
    assert markdown.count("learning rate that was tried") >= 1  # of two rates each is at an end
    assert all((settings.run / name.partition(")")[0]).exists() for name in markdown.split("](")[1:])
    lines = (settings.run / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + 6
    assert lines[0].startswith("task,arm,model,samples,rate,seed,chosen,valid,test,steps,samples_seen")


@needs_browser
def test_the_report_is_whole_in_a_browser(config, tmp_path):
    run(["study", config, "run"])
    settings = load_settings(StudySettings, config)
    assert look_at(settings.run / "report.html", tmp_path, 1200) == (4, [])


def test_studies_run_as_one_and_a_folder_of_runs_serves_one_at_a_time(config, tmp_path):
    run(["study", config, "run"])
    other = tmp_path / "other.yaml"
    runs = load_settings(StudySettings, config).run / "runs"
    text = config.read_text().replace("samples: [4]", "samples: [4, 6]")
    other.write_text(text.replace(f"run: {runs.parent}", f"run: {tmp_path / 'other'}\nruns: {runs}"))
    with lock(runs / ".lock", "taken"):
        printed = run(["study", other, "run", "seeds=[0]"], code=2)
    assert f"another process is making runs in {runs}, wait for process" in printed
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}
    printed = run(["study", config, "run", "--also", other, "seeds=[0]", "rates=[1e-3]", "--json"])
    documents = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [[row["samples"] for row in document["rows"]] for document in documents] == [[4], [4, 6]]
    assert [document["missing"] for document in documents] == [[], []]
    assert printed.count("finished ") == 2  # the two arms with 6 samples, once each
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "--also goes with run and report" in run(["study", config, "plan", "--also", other], code=2)


def test_a_report_of_a_part_says_what_is_missing(config, tmp_path):
    run(["study", config, "run"])
    printed = run(["study", config, "report", f"run={tmp_path}", "samples=[4]"], code=2)
    assert f"no run of {tmp_path} is finished" in printed
    runs = load_settings(StudySettings, config).run / "runs"
    printed = run(["study", config, "report", f"run={tmp_path}", f"runs={runs}", "samples=[4, 11]", "--json"])
    document = json.loads(printed.splitlines()[-1])
    assert [row["scratch"] is None for row in document["rows"]] == [False, True]
    assert len(document["missing"]) == 4 + 2  # two rates for each arm; a repeat of each
    page = (tmp_path / "report.html").read_text()
    assert "6 results are missing" in page
    assert '<td class="missing">missing</td>' in page


def test_the_plan_says_what_a_study_takes_as_a_table_as_json_and_in_gpu_hours(config, tmp_path):
    few = ["study", config, "plan", f"run={tmp_path}", "seeds=[0, 1, 2]"]
    printed = run([*few, "--json"])
    document = json.loads(printed.splitlines()[-1])
    stages = {one["stage"]: one for one in document["stages"]}
    assert (stages["sweep"]["jobs"], stages["repeats"]["jobs"], stages["zero-shot"]["jobs"]) == (4, 4, 1)
    steps = planned(config).sweep[0].steps
    assert (stages["sweep"]["steps"], stages["sweep"]["samples_seen"]) == (4 * steps, 4 * 4 * steps)
    lines = [line.split("│")[1:-1] for line in printed.splitlines() if "│" in line]
    rows = {name.strip(): [cell.strip() for cell in cells] for name, *cells in lines}
    assert rows["sweep"][:4] == ["4", "0", f"{4 * steps:,}", f"{16 * steps:,}"]
    assert rows["all"][:2] == ["9", "0"]
    assert document["gpu_hours"] is None
    assert "GPU-hours" not in printed
    assert [one["name"] for one in document["jobs"] if one["stage"] == "repeats"] == [None] * 4
    assert document["hours"] == pytest.approx(sum(one["hours"] for one in document["stages"]))

    elsewhere = run([*few, f"tasks.far={tmp_path}/far"])
    assert f"not there yet: {tmp_path}/far, which this study does not make (data.configs)" in elsewhere
    assert "not there yet" not in printed

    timed = tmp_path / "throughput.json"
    measured = json.loads(timed.read_text())
    timed.write_text(json.dumps({key: one | {"device": "a GPU"} for key, one in measured.items()}))  # as one writes it
    printed = run([*few, "gpus=2", "--json"])
    document = json.loads(printed.splitlines()[-1])
    assert document["device"] == "a GPU"
    assert document["gpu_hours"] == pytest.approx(2 * document["hours"])
    assert f"{document['gpu_hours']:.1f} GPU-hours; " in printed


def test_the_plan_tells_a_job_script_what_each_job_needs(config):
    whole = planned(config)
    for number in (0, 3):
        words = run(["study", config, "plan", "--stage", "sweep", "--arguments-of", number]).splitlines()
        assert words == list(whole.sweep[number].words)
    assert "has 4, from 0" in run(["study", config, "plan", "--arguments-of", 4], code=2)
    waits = ["study", config, "plan", "samples=[5]", "--stage", "repeats", "--arguments-of", 0]
    assert "waits for the sweep" in run(waits, code=2)
    assert "did you mean 'sweep'?" in run(["study", config, "run", "--stage", "swep"], code=2)


def test_a_mistake_in_any_run_is_told_before_one_starts(config, tmp_path):
    printed = run(["study", config, "run", f"run={tmp_path / 's'}", "samples=[4, 999]"], code=2)
    assert "has 13 train samples, 999 were asked for" in printed
    assert not (tmp_path / "s").exists()


def test_a_rate_that_diverges_is_left_out_and_a_study_of_such_rates_fails(config, tmp_path):
    run(["study", config, "run"])
    runs = load_settings(StudySettings, config).run / "runs"  # those at the other rate are made already
    few = [f"run={tmp_path}", f"runs={runs}", "seeds=[0]"]
    printed = run(["study", config, "run", *few, "rates=[1e18, 1e-3]", "--json"])
    document = json.loads(printed.splitlines()[-1])
    assert len(document["diverged"]) == 2
    assert all(row["ratio"] is not None for row in document["rows"])
    printed = run(["study", config, "run", *few, "rates=[1e18]"], code=2)
    assert "failed at every learning rate (1e+18)" in printed
    assert "training diverged" in printed
    assert "/log.txt)" in printed
    known = ["study", config, "run", *few, "rates=[1e18]", "--stage"]
    assert "all 1 jobs" in run([*known, "zero-shot"])
    assert "failed at every learning rate" in run([*known, "sweep"], code=2)
    words = ["study", config, "plan", *few[:2], "seeds=[0, 1]", "rates=[1e18]", "--stage", "repeats"]
    assert f"repeat 1 of {tmp_path} never comes: same-scratch-" in run([*words, "--arguments-of", 1], code=2)
    lost, other = tmp_path / "lost.yaml", tmp_path / "other.yaml"
    text = config.read_text().replace("seeds: [0, 1]", "seeds: [0]").replace("run: ", f"runs: {runs}\nrun: ")
    lost.write_text(text.replace("rates: [1e-3, 3e-3]", "rates: [1e18]").replace("/study\n", "/lost\n"))
    other.write_text(text.replace("samples: [4]", "samples: [7]").replace("steps: 60", "steps: 4"))
    printed = run(["study", lost, "run", "--also", other], code=2)
    assert printed.count("finished same-") == 4  # of the other study, two rates in two arms
    assert "failed at every learning rate (1e+18)" in printed.splitlines()[-1]
    assert "1 more failed" in printed


def test_a_worker_that_died_while_it_was_idle_gets_no_job(config, poisson_data, tmp_path):
    few = [f"run={tmp_path}", f"tasks={{one: {poisson_data}, other: {poisson_data}}}"]
    whole = planned(config, *few)
    with Pool(whole.settings) as pool:
        for job in whole.zero_shot:
            pool.start(job, at_once=1)
            deadline = time.monotonic() + 120
            while pool.jobs:
                assert time.monotonic() < deadline
                time.sleep(0.05)
                pool.ended()
            (idle,) = pool._everyone
            idle.process.kill()
            idle.process.wait()
        assert not pool.failed
    assert all(job.finished for job in whole.zero_shot)
    assert last_line(tmp_path / "none") == "it printed nothing"


def test_another_evaluation_of_a_run_is_not_taken_for_its_result(config, poisson_data, tmp_path):
    settings = load_settings(StudySettings, config)
    run(["study", config, "run"])
    before = json.loads((settings.run / "table.json").read_text())
    other = tmp_path / "other"
    other.symlink_to(poisson_data)
    run(["evaluate", planned(config).sweep[0].folder / "model", "--data", other])
    run(["study", config, "report"])
    assert json.loads((settings.run / "table.json").read_text()) == before
    assert "all 1 jobs" in run(["study", config, "run", "--stage", "zero-shot"])


def test_a_study_on_several_ranks_is_refused(config):
    printed = run(["study", config, "run"], ranks=2, code=2)
    assert printed.count("run it as one, without mpiexec, srun or torchrun") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=lambda n: n.name)
def test_a_study_that_dies_leaves_no_run_behind(config, tmp_path, number):
    few = [f"run={tmp_path}", "samples=[13]", "steps=3000", "rates=[1e-3]"]
    process = subprocess.Popen(
        command(["study", config, "run", *few]),
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    scratch = planned(config, *few).sweep[1]
    deadline = time.monotonic() + 120
    while steps_done(scratch.folder) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    process.wait(timeout=60)
    while not (scratch.folder / "outcome.json").exists() or is_locked(scratch.folder / ".lock"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert json.loads((scratch.folder / "outcome.json").read_text())["status"] == "saved"


def test_a_missing_pretrained_model_is_told_before_anything_starts(config, tmp_path):
    none = f"models={{tiny: {{folder: {tmp_path / 'none'}}}}}"
    printed = run(["study", config, "run", f"run={tmp_path / 's'}", none], code=2)
    assert f"there is no model in {tmp_path / 'none'}; make it first with fmsci train, or let the study" in printed
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


def test_a_study_makes_its_data_and_its_models_one_of_them_of_mixed_physics(tmp_path, poisson_data, trained):
    helmholtz = tmp_path / "data" / "helmholtz"
    (tmp_path / "helmholtz.yaml").write_text(
        "system: helmholtz\noutput: elsewhere/helmholtz\ngrid: 16\nrange: [1, 5]\ntrain: 10\nvalid: 4\ntest: 4\n"
    )
    (tmp_path / "train.yaml").write_text(
        f"run: unset\ndata: {{path: {poisson_data}}}\noptim: {{epochs: 1, batch_size: 5}}\n"
        "model: {width: 4, modes: 4, layers: 2}\nmonitor: {pictures: false}\n"
    )
    mixture = json.dumps([f"data={{mixture: [{{path: {poisson_data}}}, {{path: {helmholtz}}}]}}"])
    config = tmp_path / "study.yaml"
    config.write_text(
        f"study: q4\nsamples: [4]\nsteps: 4\nworkers: 2\nrun: {tmp_path / 'study'}\ntrain: {tmp_path}/train.yaml\n"
        f"data: {{configs: [{tmp_path}/helmholtz.yaml], folder: {tmp_path / 'data'}}}\n"
        f"tasks: {{poisson: {poisson_data}, helmholtz: {helmholtz}}}\n"
        f"models:\n  single: {{folder: {trained / 'model'}, tasks: [poisson]}}\n"
        f"  mixed: {{train: {tmp_path}/train.yaml, overrides: {mixture}, tasks: [helmholtz]}}\n"
    )
    whole = planned(config)
    assert [(r.arm, r.model, r.task) for r in whole.sweep] == [
        ("finetune", "single", "poisson"),
        ("scratch", "w4m4l2", "poisson"),
        ("finetune", "mixed", "helmholtz"),
        ("scratch", "w4m4l2", "helmholtz"),
    ]
    document = json.loads(run(["study", config, "run", "--json"]).splitlines()[-1])
    assert planned(config).jobs({}) == whole.jobs({})  # what is planned before the data are there is what is made
    assert document["missing"] == []
    assert [(row["task"], row["model"]) for row in document["rows"]] == [("poisson", "single"), ("helmholtz", "mixed")]
    page = Page((tmp_path / "study" / "report.html").read_text())
    assert "Mixed physics against single physics" in page.text
    assert len(page.sources) == 2 * 4
    model = json.loads((whole.models[1].folder / "config.json").read_text())
    assert model["coefficients"] == ["k11", "k22", "k12", "v1", "v2", "w"]
