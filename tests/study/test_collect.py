"""Collecting as a function of what is on disk: medians at the chosen rate, what is missing stays missing."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fmsci.config import StudySettings, load_settings
from fmsci.errors import UserError
from fmsci.files import read_json
from fmsci.study.blocks import Listing, Picture, Table, Text, as_html, as_markdown
from fmsci.study.board import Board, errors_of, jobs_left, valid_errors
from fmsci.study.collect import collect, read_record, validation_curve
from fmsci.study.content import content
from fmsci.study.cost import START_S, cost
from fmsci.study.downstream import Group
from fmsci.study.execute import ready
from fmsci.study.found import Comparison, Curve, Found, Point
from fmsci.study.plan import group_of, plan
from fmsci.study.report import report
from fmsci.study.reported import is_reported
from fmsci.study.tables import reach_table
from fmsci.study.work import work_of
from tests.study.test_plan import config  # noqa: F401 - the fixture


def leave(run, valid, test):
    """Write what a finished run leaves; ``valid`` None: that training diverged."""
    run.folder.mkdir(parents=True)
    if valid is None:
        (run.folder / "outcome.json").write_text(
            '{"status": "failed", "why": "step 3: training diverged; ...", "step": 3}'
        )
        return
    result = {"steps": run.steps, "samples_seen": run.samples_seen, "elapsed_s": 2.5, "device": "cpu", "world_size": 1}
    result |= {"torch": "2.9", "device_name": "a GPU" if run.arm == "scratch" else "a CPU"}
    result |= {"best": {"valid_rel_l2": valid, "step": run.steps}, "num_parameters": 99, "host": "node7"}
    result |= {"last": result["best"], "version": "0", "train_samples": run.samples}
    (run.folder / "result.json").write_text(json.dumps(result))
    run.evaluation.parent.mkdir()
    run.evaluation.write_text(json.dumps({"rel_l2": test}))
    curve = [(0, 1.0), (run.steps // 2, 2 * valid), (run.steps, valid)]
    lines = [json.dumps({"step": step, "valid/poisson/rel_l2": error}) for step, error in curve]
    (run.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def found(config, tmp_path):  # noqa: F811
    """Of the first task's two samples: all of the first, of the second the sweep of fine-tuning alone."""
    whole = plan(load_settings(StudySettings, config))
    tuned, scratch, later, _ = whole.groups[:4]
    leave(tuned.sweep[0], 0.3, 0.01)  # a lucky test error does not count
    leave(tuned.sweep[1], 0.2, 0.5)
    leave(scratch.sweep[0], 0.6, 0.8)
    leave(scratch.sweep[1], None, None)
    for seed, test in ((6, 0.1), (7, 0.2)):
        leave(tuned.repeat(tuned.sweep[1], seed), 0.2, test)
        leave(scratch.repeat(scratch.sweep[0], seed), 0.2, 4 * test)
    leave(later.sweep[0], 0.1, 0.1)
    whole.zero_shot[0].results[0].parent.mkdir(parents=True)
    whole.zero_shot[0].results[0].write_text('{"rel_l2": 0.9}')
    return whole, collect(whole)


def test_rows_are_medians_over_the_seeds_at_the_rate_chosen_by_validation(found):
    _, what = found
    first, second = what.rows[:2]
    assert (first.task, first.model, first.samples) == ("near", "small", 2)
    assert first.finetuned == pytest.approx(0.2)  # of 0.5, 0.1, 0.2
    assert first.scratch == pytest.approx(0.8)  # of 0.8, 0.4, 0.8: the other rate diverged
    assert first.ratio == pytest.approx(0.25)
    assert (second.finetuned, second.scratch, second.ratio) == (None, None, None)
    assert what.comparisons[0].zero_shot == 0.9
    assert what.comparisons[1].zero_shot is None
    assert what.comparisons[0].finetune.points[0].errors == (0.5, 0.1, 0.2)


def test_records_tell_what_every_run_saw_and_where(found):
    whole, what = found
    assert len(what.records) == 2 + 1 + 4 + 1
    record = what.records[0]
    assert (record.rate, record.seed, record.chosen, record.valid, record.test) == (0.001, 5, False, 0.3, 0.01)
    assert (record.host, record.device, record.seconds, record.steps) == ("node7", "cpu", 2.5, 10)
    assert record.unsettled
    assert record.folder == str(whole.sweep[0].folder)


def test_what_is_missing_and_what_diverged_is_named(found):
    whole, what = found
    assert what.diverged == (whole.groups[1].sweep[1].name,)
    assert whole.groups[2].sweep[1].name in what.missing
    assert whole.groups[1].sweep[1].name not in what.missing
    assert "near finetune small 8 seed 6" in what.missing
    assert {job.name for job in (*whole.data, *whole.pretraining)} <= set(what.missing)


def test_after_a_job_only_what_it_changed_is_looked_at(found, monkeypatch):
    """To look at thousands of folders after each one would take longer than many a job."""
    whole, _ = found
    looked = []
    over = type(whole.sweep[0]).over
    monkeypatch.setattr(type(whole.sweep[0]), "over", property(lambda run: looked.append(run.name) or over.fget(run)))
    board = Board([whole], None)
    assert len(looked) > 10
    looked.clear()
    last = whole.groups[2].sweep[1]
    leave(last, 0.5, 0.5)
    left = {job.name for job in board.waiting}
    board.look([last])
    repeats = {whole.groups[2].repeat(whole.groups[2].sweep[0], seed).name for seed in (6, 7)}
    assert set(looked) == {last.name, *repeats}  # known by now
    assert {job.name for job in board.waiting} == left - {last.name} | repeats
    assert {job.name for job in board.waiting} == {job.name for job in Board([whole], None).waiting}


def test_what_many_jobs_need_is_looked_for_once(found, monkeypatch):
    whole, _ = found
    waiting, asked, exists = Board([whole], None).waiting, [], Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: asked.append(path) or exists(path))
    assert ready(waiting, 100) == [job for job in waiting if job.ready]
    asked.clear()
    assert ready(waiting, 1) == [job for job in waiting if job.ready][:1]
    asked.clear()
    ready(waiting * 100, 10**6)
    assert len(asked) == len(set(asked))


def test_a_task_of_an_array_makes_no_other_run_of_the_study(found, monkeypatch):
    whole, _ = found
    expected = {"sweep": whole.stage("sweep", {}), "repeats": whole.stage("repeats", valid_errors(whole))}
    for stage, jobs in expected.items():
        assert whole.count(stage) == len(jobs)
        for number in (0, 3):
            fresh, made = plan(whole.settings), []
            make = Group.run
            monkeypatch.setattr(Group, "run", lambda *given, make=make, made=made: made.append(given) or make(*given))
            errors = errors_of(group_of(fresh, number).sweep) if stage == "repeats" else {}
            assert fresh.job(stage, number, errors) == jobs[number]
            monkeypatch.setattr(Group, "run", make)
            assert len(made) <= len(whole.settings.rates) + 1


def test_a_group_that_diverges_at_every_rate_stops_nothing_else(found):
    whole, _ = found
    before = Board([whole], None)
    assert before.hopeless == ()
    lost = whole.groups[3]
    for run in lost.sweep:
        leave(run, None, None)
        run.log.write_text("fmsci: error: training diverged\n")
    after = Board([whole], None)
    (sentence,) = after.hopeless
    assert sentence.startswith(f"{lost.sweep[-1].name} failed at every learning rate (0.001, 0.01): ")
    assert {job.name for job in before.waiting} - {job.name for job in after.waiting} == {r.name for r in lost.sweep}
    assert before.count - after.count == 2  # its repeats
    work = [work_of(whole, job) for job in whole.jobs({})]
    work += [2 * work_of(whole, group.sweep[0]) for group in whole.groups if group is not lost]
    assert after.total == round(sum(work)) < before.total
    assert set(found[1].missing) - set(collect(whole).missing) == {
        *(run.name for run in lost.sweep),
        *(f"near scratch 64K 8 seed {seed}" for seed in (6, 7)),
    }
    for stage in ("data", "pretrain", "zero-shot"):
        assert Board([whole], stage).hopeless == ()
    assert jobs_left(whole, "repeats") == [
        4,
        5,
        *range(8, 2 * len(whole.groups)),
    ]  # of the first two groups all are there
    assert Board([whole], "sweep").hopeless == Board([whole], "repeats").hopeless == after.hopeless


def test_a_run_whose_outcome_is_removed_in_this_moment_has_not_diverged(found, monkeypatch):
    """A start removes how the last one ended: whoever looks then finds a file, and no file when it reads."""
    run = found[0].groups[2].sweep[1]
    leave(run, None, None)
    assert run.diverged
    raced = []

    def removed(path):
        path.unlink()
        raced.append(path)
        return read_json(path)  # there is no file any more

    monkeypatch.setattr("fmsci.train.outcome.read_json", removed)
    assert not run.diverged
    assert raced == [run.folder / "outcome.json"]


def test_a_report_is_the_last_word_when_it_has_all_results_as_they_are(found):
    whole, _ = found
    best = {"valid_rel_l2": 0.1, "step": 2}
    result = {"version": "0", "steps": 2, "samples_seen": 8, "train_samples": 4, "best": best, "last": best}
    result |= {"elapsed_s": 1.0, "world_size": 1, "device": "cpu", "num_parameters": 9}
    jobs = [*whole.jobs({}), *(group.repeat(group.sweep[0], seed) for group in whole.groups for seed in (6, 7))]
    for job in jobs:
        for path in job.results:
            path.parent.mkdir(parents=True, exist_ok=True)
            if "runs" in path.parts and not path.exists():
                path.write_text(json.dumps(result if path.name == "result.json" else {"rel_l2": 0.1}))
    table = whole.settings.run / "table.json"
    assert not is_reported(whole, ["sweep"])
    table.write_text('{"missing": []}')
    assert is_reported(whole, ["pretrain", "zero-shot", "sweep"])
    assert not is_reported(whole, ["repeats"])  # not all of them: one group swept another rate
    table.write_text(json.dumps({"missing": [whole.sweep[0].name]}))
    assert not is_reported(whole, ["sweep"])
    table.write_text('{"missing": []}')
    later = table.stat().st_mtime + 60
    os.utime(whole.sweep[0].results[0], (later, later))
    assert not is_reported(whole, ["sweep"])
    os.utime(table, (later, later))
    assert is_reported(whole, ["sweep"])
    whole.sweep[0].evaluation.unlink()
    assert not is_reported(whole, ["sweep"])
    table.write_text('{"missing": 3}')
    with pytest.raises(UserError, match=r"table.json: 'missing' is 3 but should be a list"):
        is_reported(whole, ["sweep"])


def test_a_report_is_the_last_word_though_a_group_diverged_at_every_rate(config):  # noqa: F811
    whole = plan(load_settings(StudySettings, config))
    lost, *others = whole.groups
    for run in (*whole.sweep, *(group.repeat(group.sweep[0], seed) for group in others for seed in (6, 7))):
        leave(run, None if run in lost.sweep else 0.1, 0.2)
    assert not [name for name in report(whole.settings)["missing"] if name.startswith("near-") or "seed" in name]
    assert is_reported(whole, ["sweep", "repeats"])
    (lost.sweep[0].folder / "outcome.json").unlink()  # it may end otherwise
    assert not is_reported(whole, ["repeats"])


@pytest.mark.parametrize("content", ["[1]", "{}", '{"rel_l2": "small"}', '{"rel_l2": 1, "range": 3}'])
def test_a_file_that_is_no_error_is_a_sentence(found, content):
    whole, _ = found
    evaluation = whole.groups[2].sweep[0].evaluation
    evaluation.write_text(content)
    with pytest.raises(UserError, match=f"^{evaluation}: "):
        collect(whole)


def test_a_result_of_a_later_version_is_read(found):
    whole, what = found
    path = whole.groups[0].sweep[0].folder / "result.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"energy": 3.5, "best": told["best"] | {"epoch": 2}}))
    assert collect(whole) == what


@pytest.mark.parametrize("other", [{"grid": 32}, {"count": 3}, {"range": [1, 2]}, {"content": "0"}], ids=str)
def test_an_error_measured_on_other_data_of_the_same_name_is_none_of_the_study(found, other):
    whole, what = found
    run = whole.groups[2].sweep[0]
    told = run.evaluation.read_text()
    run.evaluation.write_text(json.dumps(json.loads(told) | other))
    again = collect(whole)
    assert len(again.records) == len(what.records) - 1
    assert set(again.missing) - set(what.missing) == {run.name}
    same = {"system": "poisson", "range": [1.0, 5.0], "grid": 16, "count": 2, "content": run.tests[0].content}
    run.evaluation.write_text(json.dumps(json.loads(told) | same))
    assert collect(whole) == what


def test_a_repeat_that_diverged_is_left_out_and_told(found):
    whole, what = found
    assert what.diverged_repeats == ()
    tuned = whole.groups[0]
    lost = tuned.repeat(tuned.sweep[1], 7)
    shutil.rmtree(lost.folder)
    leave(lost, None, None)
    again = collect(whole)
    assert again.diverged_repeats == (lost.name,)
    assert lost.name not in again.missing
    (row, *_) = again.rows
    assert (row.finetuned_seeds, row.scratch_seeds) == (2, 3)
    document = report(whole.settings)
    assert document["diverged_repeats"] == [lost.name]
    assert document["rows"][0]["finetuned_seeds"] == 2
    page = (whole.settings.run / "report.html").read_text()
    assert f"1 repeats diverged at the rate that served their first seed: {lost.name}." in page
    assert "(2 of 3 seeds)" in page


def test_a_report_of_a_part_marks_what_is_missing_and_names_what_diverged(found):
    whole, what = found
    page = as_html("A title & more", content(whole, what))
    assert "<title>A title &amp; more</title>" in page
    assert f"{len(what.missing)} results are missing" in page
    assert f"1 runs diverged: {what.diverged[0]}" in page
    assert '<td class="missing">missing</td>' in page
    assert "(still falling)" in page
    assert "5 runs with torch 2.9 on a CPU\n3 runs with torch 2.9 on a GPU" in page
    assert f"under HParams: tensorboard --logdir {whole.settings.run / 'runs'}" in page
    assert "data:image/svg+xml;base64," in page
    (row,) = [row for row in reach_table(what, ()).rows if row[:2] == ("near", "small")]
    assert row[2:] == ("0.8000", "scratch at 2", "<= 2", "<= 2", "-")


def test_a_page_escapes_what_it_shows():
    blocks = [
        Text("a < b", notice=True),
        Table("t <i>", ("x", "y|z"), [("<b>", "1")], "note & more", folded=True),
        Listing("settings", "<script>"),
        Picture("p.png", 'a "caption"', "png", b"\x89PNG"),
    ]
    page = as_html("t", blocks)
    assert "<script>" not in page
    assert "<b>" not in page
    assert "a &lt; b" in page
    assert 'alt="a &quot;caption&quot;"' in page
    assert as_markdown("t", blocks).startswith("# t\n\n**Note.** a < b\n\n## t <i>\n\n| x | y\\|z |")


def test_what_a_study_takes_is_measured_once_and_counted_before_anything_is_there(config, tmp_path):  # noqa: F811
    whole = plan(load_settings(StudySettings, config))
    taken = cost(whole)
    stages = {one.stage: one for one in taken.stages}
    assert {name: (one.jobs, one.finished) for name, one in stages.items()} == {
        "data": (2, 0),
        "pretrain": (2, 0),
        "zero-shot": (3, 0),
        "sweep": (20, 0),
        "repeats": (20, 0),
    }
    assert stages["sweep"].steps == stages["repeats"].steps == sum(run.steps for run in whole.sweep)
    assert taken.hours == taken.hours_left > 0
    assert taken.disk_bytes > 40 * 4 * 67_000
    timed = (tmp_path / "study" / "throughput.json").read_text()
    near, far, facts = json.loads(timed).values()
    assert facts["step_s"][1] > 0
    assert near["sample_s"] > 0
    made = (stages["data"].hours * 3600) - 2 * START_S
    assert made == pytest.approx(12 * (near["sample_s"] + far["sample_s"]))  # samples of all splits
    assert cost(whole).hours == pytest.approx(taken.hours)
    more = plan(load_settings(StudySettings, config, ["overrides=[data.valid_samples=null]", "validations=40"]))
    (predict_s,) = [facts["predict_s"] for facts in json.loads(timed).values() if "predict_s" in facts]
    sweep = {one.stage: one.hours for one in cost(more).stages}["sweep"]  # all 2 of the folder, twice as often
    assert 3600 * (sweep - stages["sweep"].hours) == pytest.approx(20 * 20 * 2 * predict_s)
    assert (tmp_path / "study" / "throughput.json").read_text() == timed
    assert not (tmp_path / "near").exists()
    spoilt = {key: value | {"step_s": ["fast"]} for key, value in json.loads(timed).items()}
    for damaged, said in ((spoilt, "'step_s.0' is 'fast' but should be a number"), ([1], "holds no times")):
        (tmp_path / "study" / "throughput.json").write_text(json.dumps(damaged))
        with pytest.raises(UserError, match=f"throughput.json:? {said}; remove the file to measure anew"):
            cost(whole)


def test_errors_on_several_folders_are_their_mean(config, tmp_path):  # noqa: F811
    run = plan(load_settings(StudySettings, config)).sweep[0]
    leave(run, 0.2, 0.1)
    other = run.evaluation.with_name("other.json")
    other.write_text('{"rel_l2": 0.3}')
    assert read_record(replace(run, results=(*run.results, other)), True).test == pytest.approx(0.2)
    entries = [
        {"step": 0, "valid/poisson/rel_l2": 0.1, "valid/poisson/loss": 7.0, "valid/helmholtz/rel_l2": 0.5},
        {"step": 5, "train/loss": 1.0, "train/rel_l2": 0.9},
        {"step": 9, "valid/rel_l2": 0.2, "valid/poisson/rel_l2": 0.1, "valid/helmholtz/rel_l2": 0.5},
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert validation_curve(run.folder) == [(0, pytest.approx(0.3)), (9, 0.2)]  # as the run told it, where it did


def seconds(whole):
    return {one.stage: 3600 * one.hours for one in cost(whole).stages}


def test_hours_are_those_of_starts_steps_and_validations_over_the_workers(config, tmp_path, monkeypatch):  # noqa: F811
    """By hand. A run from 2 samples takes 10 steps of 2, one from 8 takes 20 steps of 4; each validates 20 x 2."""
    times = {"batches": [2, 8], "step_s": [1.0, 4.0], "predict_s": 0.25, "device": "cpu"}
    asked = []
    monkeypatch.setattr("fmsci.study.cost._measure", lambda what: asked.append(what) or times)
    monkeypatch.setattr("fmsci.study.cost.seconds_per_sample", lambda settings: 10.0)
    monkeypatch.setattr("fmsci.study.cost.num_cores", lambda: 9)
    whole = plan(load_settings(StudySettings, config, ["workers=4"]))
    found = seconds(whole)
    sweep = 10 * (6 + 10 * 1.0 + 10) + 10 * (6 + 20 * 2.0 + 10)
    assert found["sweep"] == found["repeats"] == pytest.approx(sweep / 4)
    assert found["pretrain"] == pytest.approx(6 + 2 * 2.0 + 2 * 0.25)  # two side by side: one epoch of 8
    assert found["zero-shot"] == pytest.approx(6)
    assert found["data"] == pytest.approx(6 + 12 * 10.0 * 1.3)  # and what writing takes
    assert {(one["most"]["cpu"], one["most"]["cuda"], one["threads"]) for one in asked} == {(4, 4, 2)}

    whole.data[0].makes.parent.mkdir()
    whole.data[0].makes.touch()
    (data, *_) = taken = cost(whole).stages
    assert (data.jobs, data.finished) == (2, 1)
    assert data.hours_left == pytest.approx(data.hours / 2)
    assert all(one.hours_left == one.hours for one in taken[1:])


@pytest.mark.parametrize(
    ("batches", "step_s", "of_two", "of_four"),
    [
        ((4, 8), (1.0, 4.0), 0.5, 1.0),  # half a batch is not faster than half of the smallest one that was timed
        ((4, 8), (1.0, 0.5), 1.0, 1.0),  # no more samples make a step faster
        ((4, 4), (1.0, 1.0), 1.0, 1.0),
    ],
)
def test_steps_beyond_those_that_were_timed(config, monkeypatch, batches, step_s, of_two, of_four):  # noqa: F811
    times = {"batches": batches, "step_s": step_s, "predict_s": 0.0, "device": "cpu"}
    monkeypatch.setattr("fmsci.study.cost._measure", lambda what: times)
    monkeypatch.setattr("fmsci.study.cost.seconds_per_sample", lambda settings: 1.0)
    found = seconds(plan(load_settings(StudySettings, config)))
    assert found["sweep"] == pytest.approx(10 * (6 + 10 * of_two) + 10 * (6 + 20 * of_four))


def test_gpus_are_shared_and_paid_for_by_what_is_not_a_cpus_work(config, monkeypatch):  # noqa: F811
    times = {"batches": [2, 8], "step_s": [1.0, 4.0], "predict_s": 0.0, "device": "a GPU"}
    asked = []
    monkeypatch.setattr("fmsci.study.cost._measure", lambda what: asked.append(what) or times)
    monkeypatch.setattr("fmsci.study.cost.seconds_per_sample", lambda settings: 1.0)
    wide = ["overrides=[optim.batch_size=16]", "steps={2: 10, 8: 10}"]
    taken = cost(plan(load_settings(StudySettings, config, ["workers=8", "gpus=2", *wide])))
    hours = {one.stage: one.hours for one in taken.stages}
    assert 3600 * hours["sweep"] == pytest.approx((10 * (6 + 10 * 1.0) + 10 * (6 + 10 * 4.0)) / 2)
    assert taken.gpu_hours == pytest.approx(2 * (sum(hours.values()) - hours["data"]))
    assert (8, 16) in {(one["most"]["cpu"], one["most"]["cuda"]) for one in asked}


def test_the_disk_holds_data_models_and_checkpoints(config, monkeypatch):  # noqa: F811
    """40 downstream models and 2 pretrained ones; 3 checkpoints of each of these, and 2 of each run under way.

    A checkpoint is the weights and two moments of them. The data are 2 folders of 12 pairs.
    """
    times = {"batches": [2, 8], "step_s": [1.0, 4.0], "predict_s": 0.0, "device": "cpu"}
    monkeypatch.setattr("fmsci.study.cost._measure", lambda what: times)
    monkeypatch.setattr("fmsci.study.cost.seconds_per_sample", lambda settings: 1.0)
    one, three = (plan(load_settings(StudySettings, config, [f"workers={workers}"])) for workers in (1, 3))
    model = 4 * one.models[0].shape.num_parameters
    data = 2 * 12 * 2 * 16 * 16 * 4
    assert cost(one).disk_bytes == data + (40 + 2 + 3 * 3 * 2 + 2 * 3) * model
    assert cost(three).disk_bytes == data + (40 + 2 + 3 * 3 * 2 + 3 * 2 * 3) * model


def comparison(tuned, scratch):
    """Curves on 16 and 64 samples, with the errors of three seeds each."""
    one, other = (
        Curve("t", arm, "m", tuple(Point(n, (0, 1, 2), errors, 3) for n, errors in zip((16, 64), values, strict=True)))
        for arm, values in (("finetune", tuned), ("scratch", scratch))
    )
    return Comparison("t", "m", "64K", 1, one, other, None)


def test_a_gain_that_is_a_bound_shows_its_lower_end_and_an_error_reached_in_some_draws_its_interval():
    one = comparison(((0.1, 0.2, 0.3), (0.05, 0.06, 0.09)), ((0.5, 0.6, 0.7), (0.09, 0.3, 0.4)))
    found = Found((), (), (one,), (), (), (), "m")
    row = reach_table(found, [0.1]).rows[0]
    assert row[:4] == ("t", "m", "0.1000", "target")
    assert row[5].startswith("not reached (59")  # of the draws from scratch some are there, before 64
    assert row[5].endswith(" to more)")
    assert row[6].startswith(">= ")
    assert "more" not in row[6]
    assert row[6].endswith(" (from 1.13x)")
    row = reach_table(found, [0.001]).rows[0]
    assert row[4:] == ("not reached", "not reached", "-")
    row = reach_table(found, [0.15]).rows[0]
    assert row[4].endswith(")")
    assert "(fewer to " in row[4]  # with one seed of three it is there with the first number, of 16
    row = reach_table(found, [0.25]).rows[0]
    assert row[4].startswith("<= 16 (to 2")
