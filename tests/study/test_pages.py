"""The report of each question, of results as runs leave them: its pictures and cells; on a phone, in print."""

import json
import re

import pytest

from fmsci.config import StudySettings, load_settings
from fmsci.figures import gain_lines
from fmsci.study import content as contents
from fmsci.study.collect import collect
from fmsci.study.content import content
from fmsci.study.examples import examples, pictures, shown
from fmsci.study.plan import plan
from fmsci.study.report import report
from fmsci.study.tables import mixture_table
from tests.browser import look_at_all, needs_browser, text_in_print
from tests.study.test_collect import leave
from tests.study.test_plan import config  # noqa: F401 - the fixture

DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000001"
    "e221bc330000000049454e44ae426082"
)
FACTORS = {"finetune small": 0.1, "finetune also_small": 0.2, "finetune mixed": 0.05, "scratch 64K": 0.8}
A4 = 718
"""Pixels of its width within the margins of a browser."""

KINDS = {
    "q1": [],
    "q2": [],
    "q3": [],
    "q4": [],
    "recipe": ["samples=[]", "tasks={}", "models.also_small.tasks=null"],
}


def error_of(run):
    """Return the test error of a run: it falls with the samples, and is twice as high on the far task."""
    if run.arm == "pretrain":
        return 0.03
    return FACTORS[f"{run.arm} {run.model}"] * (2 if run.task == "far" else 1) * run.samples**-0.5


@pytest.fixture
def filled(config, tmp_path):  # noqa: F811
    """Return a function that gives the plan of a question with a result for each job."""

    def fill(kind, *more):
        parts = f"[{{path: {tmp_path}/near}}, {{path: {tmp_path}/far}}]"
        mixed = ["data.path=null", f"data.mixture={parts}", "model.size=64K"]
        own = [f"study={kind}", f"run={tmp_path / kind}", *KINDS[kind], *more]
        if kind == "q4":
            own.append(f"models.mixed={json.dumps({'train': str(tmp_path / 'train.yaml'), 'overrides': mixed})}")
        whole = plan(load_settings(StudySettings, config, own))
        repeats = [group.repeat(group.sweep[0], seed) for group in whole.groups for seed in (6, 7)]
        for run in (*whole.pretraining, *whole.sweep, *repeats):
            leave(run, error_of(run) if run not in whole.sweep or run.rate == 0.001 else 9.0, error_of(run))
            for path in run.results[2:]:  # of a mixture
                path.write_text(run.evaluation.read_text())
        for at, job in enumerate(whole.zero_shot):
            job.results[0].parent.mkdir(parents=True, exist_ok=True)
            job.results[0].write_text(json.dumps({"rel_l2": 0.5 + at / 10}))
        for path in pictures(whole) if whole.groups else ():
            path.write_bytes(DOT)
        return whole

    return fill


def drawn(whole, monkeypatch):
    """Return the lines of each gain picture by its file, and the words in it."""
    lines = []
    monkeypatch.setattr(contents, "gain_lines", lambda *given: lines.append(given) or gain_lines(*given))
    blocks = [one for one in content(whole, collect(whole)) if getattr(one, "file", "").startswith("gain-")]
    return {
        block.file: (given[0], given[1], re.findall(r"<!-- (.+?) -->", block.content.decode()))
        for block, given in zip(blocks, lines, strict=True)
    }


def test_the_gain_is_drawn_over_the_models_of_each_task(filled, monkeypatch):
    found = drawn(filled("q2"), monkeypatch)
    assert list(found) == ["gain-near.svg", "gain-far.svg"]
    lines, ticks, words = found["gain-far.svg"]
    assert ticks == ["small", "also_small"]
    assert lines == {"2": pytest.approx([8, 4]), "8": pytest.approx([8, 4])}
    assert {"small", "also_small", "model", "2", "8", "Gain against size, far"} <= set(words)
    assert found["gain-near.svg"][1] == ["small"]


def test_the_gain_is_drawn_over_the_tasks_of_each_model(filled, monkeypatch):
    found = drawn(filled("q3"), monkeypatch)
    assert list(found) == ["gain-small.svg", "gain-also_small.svg"]
    lines, ticks, words = found["gain-small.svg"]
    assert ticks == ["near", "far"]
    assert lines == {"2": pytest.approx([8, 8]), "8": pytest.approx([8, 8])}
    assert {"near", "far", "task", "Gain against shift, small"} <= set(words)


def test_the_mixture_stands_beside_the_others_on_each_task(filled):
    whole = filled("q4")
    table = mixture_table(collect(whole), whole.settings.samples)
    assert table.columns == ("task", "model", "pretraining steps", "zero-shot", "2", "8")
    steps = {run.model: f"{run.steps:,}" for run in whole.pretraining}
    assert table.rows == [
        ("near", "small", steps["small"], "0.5000", "0.0707", "0.0354"),
        ("near", "mixed", steps["mixed"], "0.8000", "0.0354", "0.0177"),
        ("near", "scratch 64K", "-", "-", "0.5657", "0.2828"),
        ("far", "small", steps["small"], "0.6000", "0.1414", "0.0707"),
        ("far", "also_small", steps["also_small"], "0.7000", "0.2828", "0.1414"),
        ("far", "mixed", steps["mixed"], "0.9000", "0.0707", "0.0354"),
        ("far", "scratch 64K", "-", "-", "1.1314", "0.5657"),
    ]
    assert [(task, model.name) for task, model in shown(whole)] == [("near", "mixed"), ("far", "mixed")]


def test_fields_are_shown_of_the_nearest_and_the_farthest_task_at_a_middle_number_of_samples(
    filled, tmp_path, monkeypatch
):
    tasks = ", ".join(f"t{at}: {tmp_path}/{'far' if at > 1 else 'near'}" for at in range(4))
    more = [f"tasks={{{tasks}}}", "models={small: {train: RUN/train.yaml, overrides: [data.path=RUN/near]}}"]
    settings = [one.replace("RUN", str(tmp_path)) for one in (*more, "samples=[2, 4, 8]", "steps=4")]
    monkeypatch.setitem(FACTORS, "scratch 1M", 0.8)
    whole = filled("q3", *settings)
    files = [one.file for one in examples(whole, collect(whole))]
    kinds = ("zero-shot", "finetune", "scratch")
    assert files == [f"fields-{task}-{kind}.png" for task in ("t0", "t1", "t3") for kind in kinds]
    captions = [one.caption for one in examples(whole, collect(whole))]
    assert captions[-1].startswith("t3: 1M, from scratch on 4 samples")
    assert captions[-2].startswith("t3: small, fine-tuned on 4 samples")


def test_a_report_of_pretraining_and_zero_shot_alone_is_one(filled, config, tmp_path):  # noqa: F811
    whole = filled("q1")
    for run in whole.sweep:
        (run.folder / "result.json").unlink()
    document = report(whole.settings)
    assert [row["finetuned"] for row in document["rows"]] == [None] * len(document["rows"])
    assert [one["error"] for one in document["zero_shot"]] == pytest.approx([0.5, 0.6, 0.7])
    assert "0.6000" in (whole.settings.run / "report.md").read_text()


@needs_browser
def test_every_report_is_whole_in_a_window_and_on_a_phone(filled, tmp_path):
    pages = {}
    for kind in KINDS:
        whole = filled(kind)
        report(whole.settings)
        pages[kind] = whole.settings.run / "report.html"
    paper = tmp_path / "paper.html"
    paper.write_text(pages["q1"].read_text().replace("@media print", "@media screen"))
    looked = [(page, width) for page in pages.values() for width in (1200, 375)]
    found = look_at_all([*looked, (paper, A4)], tmp_path)
    assert [wrong for _, wrong in found if wrong] == []
    counts = dict(zip(pages, (pictures for pictures, _ in found[::2]), strict=False))
    fields = 2 * 3
    assert counts == {"q1": 2 + fields, "q2": 2 + 2 + fields, "q3": 2 + 2 + fields, "q4": 2 + fields, "recipe": 1}
    said = text_in_print(pages["q1"], tmp_path)
    for folded in ("nearfinetunesmall20.0010.0707yes", "Whatran(42runs)", "farscratch64K1.60.50", "validations:20"):
        assert folded in said  # on a screen that waits for a click
