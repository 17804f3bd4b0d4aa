"""Every study of configs/study is planned: what it stands on is there, and its runs are those of its question."""

from pathlib import Path

import pytest

from fmsci.config import StudySettings, load_settings
from fmsci.study.plan import plan

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.relative_to(ROOT) for path in (ROOT / "configs/study").rglob("*.yaml"))
SCALES = ("laptop", "lab", "paper")


@pytest.mark.parametrize("path", [path for path in STUDIES if path.parent.name in SCALES], ids=str)
def test_a_study_of_the_paper_is_planned(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    downstream = [] if path.stem == "recipe" else ["samples=[64, 256]", "rates=[1e-3]"]  # the grid is the same in each
    settings = load_settings(StudySettings, path, downstream)
    whole = plan(settings)
    assert settings.run == Path("runs") / path.parent.name / path.stem
    assert settings.runs == Path("runs") / path.parent.name / "runs"
    assert len(whole.pretraining) == len(settings.models)
    made = {job.results[0].parent for job in whole.data}
    assert {
        path.parent for job in (*whole.pretraining, *whole.sweep) for path in job.needs if "data" in path.parts
    } == made
    if settings.study == "recipe":
        assert not whole.sweep
        assert not whole.zero_shot
        return
    question = path.stem[:2]
    assert settings.study == question
    arms = [(group.arm, group.model, group.task) for group in whole.groups]
    assert arms.count(("scratch", whole.models[0].label, whole.models[0].tasks[0])) == 2
    assert len(settings.models) == {"q1": 1, "q2": len(settings.models), "q3": 1, "q4": 5}[question]
    assert len(settings.tasks) == {"q1": 1, "q2": 1, "q3": 4, "q4": 3}[question]
    if question == "q2":
        assert len({model.label for model in whole.models}) == len(settings.models) >= 2
    if question == "q4":  # one of the mixtures takes no more steps than the models of one system
        steps = {run.model: run.steps for run in whole.pretraining}
        *single, mixed, short = steps.values()
        assert len(set(single)) == 1
        assert 0.9 * single[0] < short <= single[0] < mixed


def test_the_recipes_see_half_of_the_samples_of_the_first(monkeypatch):
    monkeypatch.chdir(ROOT)
    reference, *others = plan(load_settings(StudySettings, Path("configs/study/laptop/recipe.yaml"))).pretraining
    shares = {run.model: run.samples_seen / reference.samples_seen for run in others}
    assert {name: share for name, share in shares.items() if share != 0.5} == {"ours_quarter": 0.25}
    assert len({run.key for run in (reference, *others)}) == 1 + len(others)


def test_every_question_is_there_at_every_scale():
    for scale in SCALES:
        names = {path.stem for path in STUDIES if path.parent.name == scale}
        assert {"q1", "q2", "q3", "q4"} <= {name[:2] for name in names}
        assert {"q1-poisson", "q1-advection_diffusion", "q1-helmholtz", "q3-helmholtz"} <= names


def test_studies_of_a_scale_share_their_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {
        name: {run.name for run in plan(load_settings(StudySettings, Path(f"configs/study/laptop/{name}.yaml"))).sweep}
        for name in ("q1-poisson", "q2-poisson", "q3-poisson", "q4")
    }
    assert names["q1-poisson"] < names["q2-poisson"]
    assert names["q1-poisson"] < names["q3-poisson"]
    assert names["q1-poisson"] < names["q4"]


def test_what_was_run_with_seed_0_keeps_its_name(monkeypatch):
    """Results are committed under these hashes (docs/results.md): a change that moves them has made those runs anew."""
    monkeypatch.chdir(ROOT)
    whole = plan(load_settings(StudySettings, Path("configs/study/laptop/q1-poisson.yaml")))
    names = [run.name for run in (*whole.pretraining, *whole.sweep)]
    assert names[0] == "pretrain-poisson_1M-b5a8cb81"
    assert names[1] == "k5_10-finetune-poisson_1M-16-lr0.001-s0-3a723dae"
    assert names[-1] == "k5_10-scratch-1M-4096-lr0.01-s0-a8f3d3ec"
