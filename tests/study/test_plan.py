"""The plan as a pure function: which runs there are, what their names depend on, which rate is chosen."""

import json
import math
import shutil
from pathlib import Path

import pytest

from fmsci.config import GenerateSettings, StudySettings, TrainSettings, assign, load_settings
from fmsci.config.load import apply_override
from fmsci.errors import UserError
from fmsci.shards import read_manifest
from fmsci.shards.content import made_data
from fmsci.shards.manifest import write_manifest
from fmsci.study.downstream import epochs_for
from fmsci.study.identity import planned_data, run_hash
from fmsci.study.plan import chosen, hopeless, plan, repeats, waits
from fmsci.study.several import load_studies

ROOT = Path(__file__).parents[2]
BASE = """
run: unset
data: {path: unset, valid_samples: 2}
optim: {epochs: 1, batch_size: 4, warmup: 1}
"""
STUDY = """
study: q3
run: RUN/study
data: {configs: [RUN/near.yaml, RUN/far.yaml]}
models:
  small: {train: RUN/train.yaml, overrides: [model.size=64K, data.path=RUN/near]}
  also_small: {train: RUN/train.yaml, overrides: [model.size=64K, data.path=RUN/near, optim.lr=0.1], tasks: [far]}
tasks: {near: RUN/near, far: RUN/far}
samples: [2, 8]
rates: [0.001, 0.01]
seeds: [5, 6, 7]
steps: {2: 10, 8: 20}
train: RUN/train.yaml
"""
GENERATE = "system: poisson\nrange: [RANGE]\ngrid: 16\ntrain: 8\nvalid: 2\ntest: 2\noutput: RUN/NAME\n"


@pytest.fixture
def config(tmp_path):
    (tmp_path / "train.yaml").write_text(BASE)
    for name, ends in (("near", "1, 5"), ("far", "5, 10")):
        text = GENERATE.replace("RUN", str(tmp_path)).replace("NAME", name).replace("RANGE", ends)
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "study.yaml").write_text(STUDY.replace("RUN", str(tmp_path)))
    return tmp_path / "study.yaml"


def planned(config, *overrides):
    return plan(load_settings(StudySettings, config, overrides))


def named(runs):
    return {run.name for run in runs}


def test_the_grid_is_whole_and_scratch_is_shared_by_models_of_one_architecture(config):
    whole = planned(config)
    arms = [(group.arm, group.model, group.task, group.samples) for group in whole.groups]
    assert len(set(arms)) == len(arms)
    assert {(arm, model) for arm, model, *_ in arms} == {
        ("finetune", "small"),
        ("finetune", "also_small"),
        ("scratch", "64K"),
    }
    assert len(arms) == 2 * 2 * 2 + 2  # both arms of small on two tasks, also_small on one
    assert len(whole.sweep) == 2 * len(arms)
    assert {run.seed for run in whole.sweep} == {5}
    assert len(named(whole.sweep)) == len(whole.sweep)
    assert len(whole.stage("repeats", {})) == 2 * len(arms)
    assert [job.name for job in whole.data] == ["near", "far"]
    assert len(whole.zero_shot) == 3
    assert planned(config).jobs({}) == whole.jobs({})


def test_both_arms_are_alike_but_for_their_weights(config):
    whole = planned(config)
    for tuned, scratch in zip(whole.groups[0].sweep, whole.groups[1].sweep, strict=True):
        one, other = (load_settings(TrainSettings, Path(r.words[1]), r.words[2:-1]) for r in (tuned, scratch))
        assert (one.init, other.init) == (whole.models[0].folder, None)
        assert (one.model.width, other.model.width, other.model.modes) == (None, 16, 4)
        differing = {"run", "init", "model"}
        assert one.model_dump(exclude=differing) == other.model_dump(exclude=differing)
        assert (tuned.steps, tuned.samples_seen) == (scratch.steps, scratch.samples_seen)
        assert one.monitor.validate_steps == max(1, tuned.steps // 20)


@pytest.mark.parametrize(
    ("steps", "samples", "batch", "epochs"), [(300, 16, 16, 300), (300, 256, 16, 19), (1, 5, 2, 1)]
)
def test_every_run_takes_the_same_steps_up_to_an_epoch(steps, samples, batch, epochs):
    assert epochs_for(steps, samples, batch) == epochs


def test_curves_go_from_the_fewest_samples_on(config):
    assert planned(config, "samples=[8,2]").settings.samples == (2, 8)


def test_steps_may_depend_on_the_samples(config):
    assert {(run.samples, run.steps) for run in planned(config).sweep} == {(2, 10), (8, 20)}


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("overrides=[optim.warmup=2]", {"near finetune", "near scratch", "far finetune", "far scratch"}),
        ("overrides=[data.valid_samples=1]", {"near finetune", "near scratch", "far finetune", "far scratch"}),
        ("validations=2", {"near finetune", "near scratch", "far finetune", "far scratch"}),
        ("steps={2: 11, 8: 20}", {"near finetune", "near scratch", "far finetune", "far scratch"}),
        ("overrides=[engine.precision=bf16]", {"near finetune", "near scratch", "far finetune", "far scratch"}),
        ("models.small.overrides=[model.size=64K, data.path=RUN/near, seed=1]", {"near finetune", "far finetune"}),
        ("models.small.overrides=[model.size=64K, data.path=RUN/far]", {"near finetune", "far finetune"}),
        ("samples=[2]", set()),
        ("seeds=[5]", set()),
        ("workers=7", set()),
        ("ratio_below=0.5", set()),
        ("overrides=[engine.device=cpu, engine.threads=3, monitor.every_steps=7, monitor.pictures=false]", set()),
        ("overrides=[monitor.profile=3, monitor.wandb=there]", set()),
        ("overrides=[engine.replay=false, engine.transform=fft]", set()),
        ("overrides=[checkpoint.every_minutes=1, data.prefetch=5, data.cache=host]", set()),
    ],
)
def test_a_changed_setting_makes_anew_exactly_what_depends_on_it(config, tmp_path, change, again):
    old, new = planned(config), planned(config, change.replace("RUN", str(tmp_path)))
    fresh = [run for run in new.sweep if run.name not in named(old.sweep)]
    of_small = [run for run in fresh if run.model != "also_small"]
    assert {f"{run.task} {run.arm}" for run in of_small} == again
    pretrained = "models" in change
    assert (named(new.pretraining) == named(old.pretraining)) is not pretrained


def test_other_data_make_anew_what_is_trained_or_measured_on_them(config, tmp_path):
    old = planned(config)
    path = tmp_path / "far.yaml"
    path.write_text(path.read_text().replace("test: 2", "test: 3"))
    new = planned(config)
    assert {run.task for run in new.sweep if run.name not in named(old.sweep)} == {"far"}
    assert named(new.pretraining) == named(old.pretraining)
    assert {job.name for job in new.zero_shot} - {job.name for job in old.zero_shot} == {
        job.name for job in new.zero_shot if "-on-far-" in job.name
    }
    path.write_text(path.read_text().replace("output:", "shard_samples: 2\noutput:"))
    assert named(planned(config).sweep) == named(new.sweep)  # how the same samples are cut into files


def test_other_numerics_make_anew_what_rests_on_them(config, monkeypatch, tmp_path, poisson_data):
    def names():
        whole = planned(config)
        return named(whole.pretraining) | named(whole.sweep)

    old = names()
    for place in ("REVISION", "DATA_REVISION"):
        monkeypatch.setattr(f"fmsci.study.identity.{place}", 1)
        assert not names() & old
        monkeypatch.setattr(f"fmsci.study.identity.{place}", 0)
        assert names() == old

    manifest = read_manifest(poisson_data)
    assert "revision" not in (poisson_data / "manifest.json").read_text()
    (tmp_path / "later").mkdir()
    write_manifest(tmp_path / "later", manifest.model_copy(update={"revision": 1}))
    assert made_data(read_manifest(tmp_path / "later")) == made_data(manifest) | {"revision": 1}


def test_where_things_lie_does_not_count(config, tmp_path):
    settings = load_settings(TrainSettings, tmp_path / "train.yaml")
    moved = load_settings(TrainSettings, tmp_path / "train.yaml", ["run=else", "data.path=moved", "init=there"])
    facts = {"system": "poisson"}
    assert run_hash(settings, {Path("unset"): facts}, "a") == run_hash(moved, {Path("moved"): facts}, "a")
    assert run_hash(settings, {Path("unset"): facts}, "a") != run_hash(settings, {Path("unset"): facts}, "b")


def test_data_are_the_same_planned_and_made(poisson_data):
    text = "{system: poisson, range: [1, 5], grid: 16, train: 13, valid: 7, test: 5, output: o}"
    settings = GenerateSettings.model_validate(__import__("yaml").safe_load(text))
    assert planned_data(settings) == made_data(read_manifest(poisson_data))


def test_the_rate_is_chosen_by_validation_error_and_diverged_ones_lose(config):
    whole = planned(config)
    group = whole.groups[0]
    first, second = group.sweep
    assert chosen(group, {}) is None
    assert chosen(group, {first.folder: 0.1}) is None  # the other may be better
    assert chosen(group, {first.folder: 0.1, second.folder: 0.2}) is first
    assert chosen(group, {first.folder: math.inf, second.folder: 0.2}) is second
    assert chosen(group, {first.folder: math.inf, second.folder: math.inf}) is None


def test_repeats_wait_while_a_rate_may_still_serve(config):
    group = planned(config).groups[0]
    first, second = (run.folder for run in group.sweep)
    for errors, state in (
        ({}, (True, False)),
        ({first: math.inf}, (True, False)),
        ({first: 0.1}, (True, False)),
        ({first: 0.1, second: math.inf}, (False, False)),
        ({first: math.inf, second: math.inf}, (False, True)),
    ):
        assert (waits(group, errors), hopeless(group, errors)) == state


def test_repeats_take_the_chosen_rate_with_the_other_seeds_in_places_that_do_not_move(config):
    whole = planned(config)
    none = repeats(whole, {})
    assert none == (None,) * 2 * len(whole.groups)
    last = whole.groups[-1]
    errors = {last.sweep[0].folder: 0.2, last.sweep[1].folder: 0.1}
    known = repeats(whole, errors)
    assert known[:-2] == none[:-2]
    assert [(run.rate, run.seed, run.stage) for run in known[-2:]] == [(0.01, 6, "repeats"), (0.01, 7, "repeats")]
    assert not {run.folder for run in known[-2:]} & {run.folder for run in whole.sweep}


def test_a_seed_draws_the_samples_too_the_same_for_both_arms_and_the_first_ones_for_0(config):
    whole = planned(config, "seeds=[0, 6]")
    drawn = {}
    for group in whole.groups:
        for run in (*group.sweep, group.repeat(group.sweep[0], 6)):
            wanted = load_settings(TrainSettings, Path(run.words[1]), run.words[2:-1])
            assert wanted.data.train_samples == run.samples
            drawn.setdefault((group.task, group.samples, run.seed), set()).add(wanted.data.subset)
    assert {key[2]: subsets for key, subsets in drawn.items()} == {0: {0}, 6: {6}}


def test_data_that_are_not_what_the_configuration_says_are_refused(config, poisson_data, tmp_path):
    (tmp_path / "near").symlink_to(poisson_data)  # 13 training samples, not 8
    with pytest.raises(UserError, match=r"holds other data than .*near.yaml says \(counts\)"):
        planned(config)


def test_two_data_folders_of_one_name_are_refused(config, tmp_path):
    other = (tmp_path / "far.yaml").read_text().replace(f"{tmp_path}/far", f"{tmp_path}/else/near")
    (tmp_path / "far.yaml").write_text(other)
    with pytest.raises(UserError, match=r"far.yaml makes .*else/near and .*near.yaml .*/near: name one otherwise"):
        planned(config)


@pytest.mark.parametrize("name", ["2024", "sp ace #1", "a: b", "null", "[x", "1e3", "'", "é", "😀: x"])
def test_a_path_of_any_name_is_that_path(config, tmp_path, name):
    (tmp_path / "far.yaml").write_text(text(json_of(tmp_path / "far.yaml") | {"output": f"{tmp_path}/{name}"}))
    whole = planned(config, f"data.folder={tmp_path}/d", f"tasks={text({'far': f'{tmp_path}/d/{name}'})}",
                    f"runs={text(str(tmp_path / name))}", 'models.also_small.tasks=null')  # fmt: skip
    made = [load_settings(GenerateSettings, Path(job.words[1]), job.words[2:]).output for job in whole.data]
    assert tmp_path / "d" / name in made
    for run in whole.sweep:
        wanted = load_settings(TrainSettings, Path(run.words[1]), run.words[2:-1])
        assert (wanted.data.path, wanted.run) == (tmp_path / "d" / name, run.folder)
        assert wanted.init in {None, *(model.folder for model in whole.models)}
    for key in ("run", "init"):
        bare = assign(key, Path(name))
        document: dict = {}
        apply_override(document, bare)
        assert document == {key: name}


def text(value):
    return json.dumps(value, ensure_ascii=False)


def json_of(path):
    return load_settings(GenerateSettings, path).model_dump(mode="json")


def test_data_of_another_revision_are_refused_by_that_name(config, tmp_path, poisson_data):
    made = read_manifest(poisson_data)
    (tmp_path / "near").mkdir()
    write_manifest(tmp_path / "near", made.model_copy(update={"revision": 1}))
    sizes = "".join(f"{split}: {record.count}\n" for split, record in made.splits.items())
    (tmp_path / "near.yaml").write_text(f"system: poisson\nrange: [1, 5]\ngrid: 16\noutput: {tmp_path}/near\n{sizes}")
    with pytest.raises(UserError, match=r"holds other data than .*near.yaml says \(revision\)"):
        planned(config)


def test_a_task_of_a_system_that_is_not_known_here_is_a_sentence(config, tmp_path, poisson_data):
    (tmp_path / "mine").mkdir()
    write_manifest(tmp_path / "mine", read_manifest(poisson_data).model_copy(update={"system": "screened"}))
    whole = planned(config, f"tasks.far={tmp_path}/mine")
    with pytest.raises(UserError, match=r"there is no system 'screened'; choose poisson, "):
        _ = whole.sweep


@pytest.mark.parametrize("content", ["{}", "[1]", '{"format_version": 1}'])
def test_a_model_folder_that_is_none_is_a_sentence(config, tmp_path, trained, content):
    folder = shutil.copytree(trained / "model", tmp_path / "model")
    mine = f"models={{one: {{folder: {folder}}}}}"
    (model,) = planned(config, mine).models
    assert (model.shape.in_channels, model.shape.layers, model.mixed) == (1, 2, False)
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=f"^{folder}/config.json"):
        planned(config, mine)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("steps={2: 10}", "'steps' has no number for 8 samples"),
        ("models={a: {train: t, folder: f}}", "should have exactly one of folder and train"),
        ("models={a: {folder: f, tasks: [fra]}}", "names the task 'fra'; there is near, far"),
        ("models={a/b: {folder: f}}", "should be a name of letters, digits"),
        ("rates=[0.1, 0.1]", "'rates' is [0.1, 0.1] but should name each once"),
        ("study=q5", "'study' is 'q5' but should be 'q1', 'q2', 'q3', 'q4' or 'recipe'"),
        ("steps=much", "'steps' is 'much' but should be a whole number"),
    ],
)
def test_a_wrong_setting_is_a_sentence(config, change, sentence):
    with pytest.raises(UserError) as caught:
        load_settings(StudySettings, config, [change])
    assert sentence in str(caught.value)


def test_a_file_stands_on_the_base_that_it_names(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "base.yaml").write_text("run: r\ndata: {path: d, valid_samples: 3}\noptim: {epochs: 1, lr: 0.5}\n")
    (tmp_path / "in" / "top.yaml").write_text("base: ../base.yaml\noptim: {epochs: 7}\ndata: {path: e}\n")
    found = load_settings(TrainSettings, tmp_path / "in" / "top.yaml", ["optim.lr=0.25"])
    assert (found.run, found.data.path, found.data.valid_samples) == (Path("r"), Path("e"), 3)
    assert (found.optim.epochs, found.optim.lr) == (7, 0.25)
    (tmp_path / "base.yaml").write_text("base: in/top.yaml\n")
    with pytest.raises(UserError, match="'base' leads back to this file"):
        load_settings(TrainSettings, tmp_path / "in" / "top.yaml")
    (tmp_path / "base.yaml").write_text("base: [a]\n")
    with pytest.raises(UserError, match="'base' should be the path of a settings file"):
        load_settings(TrainSettings, tmp_path / "base.yaml")


def test_words_of_a_run_say_what_its_name_was_made_of(config):
    for run in planned(config).sweep[:3]:
        wanted = load_settings(TrainSettings, Path(run.words[1]), run.words[2:-1])
        folders = planned(config).folders
        init = planned(config).models[0].key if run.arm == "finetune" else None
        assert run_hash(wanted, {wanted.data.path: folders[wanted.data.path]}, init) == run.key
        assert wanted.run.name.endswith(run.key)
    assert json.loads(json.dumps(run.words)) == list(run.words)


def test_settings_on_the_command_line_are_for_all_studies_that_know_them(config, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"{{study: recipe, run: {tmp_path}/recipe, models: {{a: {{train: t.yaml}}}}, train: {tmp_path}/train.yaml}}"
    )
    words = ["samples=[2]", "tasks.far=RUN/else", "workers=3", "rates=[0.5]"]
    both = load_studies([config, recipe], words)
    assert [one.samples for one in both] == [(2,), ()]
    assert [(one.workers, one.rates) for one in both] == [(3, (0.5,))] * 2
    assert [set(one.tasks) for one in both] == [{"near", "far"}, set()]
    with pytest.raises(UserError, match=r"'run=there' is for one study, not for 2: each has a folder of its own"):
        load_studies([config, recipe], ["run=there"])
    assert load_studies([config], ["run=there"])[0].run == Path("there")
    with pytest.raises(UserError, match="have the same folder"):
        load_studies([config, config], [])
    with pytest.raises(UserError, match="should have no 'samples': recipe has no runs downstream"):
        load_studies([recipe], words)
    with pytest.raises(UserError, match="unknown setting 'wrokers'"):
        load_studies([config, recipe], ["wrokers=3"])
