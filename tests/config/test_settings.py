"""Settings: what is right is read as meant and written back; what is wrong gets a sentence that says what to do."""

import re
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import yaml

from fmsci.config import (
    GenerateSettings,
    PipelineSettings,
    ScalingSettings,
    Schema,
    SiteSettings,
    StudySettings,
    TrainSettings,
    dump_settings,
    load_settings,
    parse,
)
from fmsci.config.load import apply_override
from fmsci.config.sections import Size
from fmsci.errors import UserError
from fmsci.model.sizes import SIZES

ROOT = Path(__file__).parents[2]
CLASSES = {
    "data": GenerateSettings,
    "pretrain": TrainSettings,
    "finetune": TrainSettings,
    "study": StudySettings,
    "pipeline": PipelineSettings,
    "site": SiteSettings,
    "scaling": ScalingSettings,
}
"""The class of the settings files in each folder of configs/."""

TRAIN = "run: r\ndata: {path: d}\noptim: {epochs: 3}\n"
GENERATE = "system: poisson\nrange: [1, 5]\ntrain: 4\nvalid: 4\ntest: 4\noutput: o\n"
STUDY = "study: q1\nrun: r\nmodels: {m: {folder: p}}\ntasks: {t: d}\ntrain: t\nsamples: [16, 64]\nsteps: 9\n"
TOP = "run, seed, init, data, model, optim, engine, checkpoint, monitor"
OPTIM = (
    "lr, epochs, batch_size, loss, optimizer, weight_decay, schedule, schedule_by, warmup, grad_clip, freeze, "
    "lr_factors, on_nonfinite"
)


def mistake(cls, path, *overrides):
    """Return the sentence that these settings get, with FILE for the path."""
    with pytest.raises(UserError) as caught:
        load_settings(cls, path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


# ------------------------------------------------------------------ wrong values, one override each


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        # unknown keys
        ("optm.lr=3", f"unknown setting 'optm' (did you mean 'optim'?); allowed here: {TOP}"),
        ("rum=x", f"unknown setting 'rum' (did you mean 'run'?); allowed here: {TOP}"),
        ("zzz=3", f"unknown setting 'zzz'; allowed here: {TOP}"),
        ("optim.epoch=3", f"unknown setting 'optim.epoch' (did you mean 'epochs'?); allowed here: {OPTIM}"),
        ("lr=3", f"unknown setting 'lr' (did you mean 'optim.lr'?); allowed here: {TOP}"),
        ("model.lr=3", "unknown setting 'model.lr' (did you mean 'optim.lr'?); allowed here: size, width, modes, "
         "layers, initial"),
        # wrong types
        ("optim.lr=fast", "'optim.lr' is 'fast' but should be a number"),
        ("optim.lr=[1]", "'optim.lr' is [1] but should be a number"),
        ("optim.epochs=3.5", "'optim.epochs' is 3.5 but should be a whole number"),
        ("optim.epochs=many", "'optim.epochs' is 'many' but should be a whole number"),
        ("optim.epochs=", "'optim.epochs' is null but should be a whole number"),
        ("optim.epochs=2001-02-03", "'optim.epochs' is 2001-02-03 but should be a whole number"),
        ("optim.epochs=2001-99-99", "'optim.epochs' is '2001-99-99' but should be a whole number"),
        ("monitor.pictures=maybe", "'monitor.pictures' is 'maybe' but should be true or false"),
        ("data.path=5", "'data.path' is 5 but should be a path"),
        ("run=", "'run' is null but should be a path"),
        ("run=''", "'run' is '' but should not be empty"),
        ("init=''", "'init' is '' but should not be empty"),
        ("run={a: b}", "'run' is {'a': 'b'} but should be a path"),
        # true or false for a number
        ("optim.lr=true", "'optim.lr' is true but should not be true or false"),
        ("seed=false", "'seed' is false but should not be true or false"),
        ("data.train_samples=yes", "'data.train_samples' is true but should not be true or false"),
        # out of range
        ("optim.lr=0", "'optim.lr' is 0 but should be greater than 0"),
        ("optim.grad_clip=-1.5", "'optim.grad_clip' is -1.5 but should be greater than 0"),
        ("optim.batch_size=0", "'optim.batch_size' is 0 but should be greater than or equal to 1"),
        ("optim.warmup=-1", "'optim.warmup' is -1 but should be greater than or equal to 0"),
        ("seed=-1", "'seed' is -1 but should be greater than or equal to 0"),
        ("seed=9223372036854775808", "'seed' is 9223372036854775808 but should be less than 9223372036854775808"),
        ("optim.lr=.nan", "'optim.lr' is nan but should be a finite number"),
        ("optim.lr=-.inf", "'optim.lr' is -inf but should be a finite number"),
        ("optim.lr=1e999", "'optim.lr' is '1e999' but should be a finite number"),
        ("optim.epochs=.inf", "'optim.epochs' is inf but should be a finite number"),
        # unknown choices
        ("model.size=2M", "'model.size' is '2M' but should be '64K', '1M', '16M' or '256M'"),
        ("optim.schedule=cosin", "'optim.schedule' is 'cosin' but should be 'cosine' or 'constant'"),
        # a value for a section, a section for a value
        ("model=1M", "'model' is '1M' but should be a section of settings; allowed in it: size, width, modes, "
         "layers, initial"),
        ("optim=", f"'optim' is null but should be a section of settings; allowed in it: {OPTIM}"),
        ("data=[d]", "'data' is ['d'] but should be a section of settings; allowed in it: path, train_samples, "
         "subset, valid_samples, mixture, cache, prefetch"),
        ("seed={a: 1}", "'seed' is {'a': 1} but should be a whole number"),
    ],
)  # fmt: skip
def test_a_wrong_training_setting_is_named_with_what_was_given_and_what_is_allowed(tmp_path, override, sentence):
    path = tmp_path / "c.yaml"
    path.write_text(TRAIN)
    assert mistake(TrainSettings, path, override) == f"FILE with {override}: {sentence}"


@pytest.mark.parametrize(
    ("cls", "base", "override", "sentence"),
    [
        (GenerateSettings, GENERATE, "range=[5,1]", "range is [5.0, 1.0] but the first number should not exceed the "
         "second"),
        (GenerateSettings, GENERATE, "range=[1]", "'range' is [1] but should have at least 2 items"),
        (GenerateSettings, GENERATE, "range=[1,2,3]", "'range' is [1, 2, 3] but should have at most 2 items"),
        (GenerateSettings, GENERATE, "range=5", "'range' is 5 but should be a list"),
        (GenerateSettings, GENERATE, "range='15'", "'range' is '15' but should be a list"),
        (GenerateSettings, GENERATE, "range=[a,5]", "'range.0' is 'a' but should be a number"),
        (GenerateSettings, GENERATE, "range=[1,.nan]", "'range.1' is nan but should be a finite number"),
        (GenerateSettings, GENERATE, "range=[true,5]", "'range' is [True, 5] but should not be true or false"),
        (GenerateSettings, GENERATE, "grid=4", "'grid' is 4 but should be greater than or equal to 8"),
        (GenerateSettings, GENERATE, "grid=9999", "'grid' is 9999 but should be less than or equal to 8192"),
        (GenerateSettings, GENERATE, "ouput=x", "unknown setting 'ouput' (did you mean 'output'?); allowed here: "),
        (StudySettings, STUDY, "samples=[]", "'samples' is [] but should have at least 1 item"),
        (StudySettings, STUDY, "samples=[16,0]", "'samples.1' is 0 but should be greater than or equal to 1"),
        (StudySettings, STUDY, "samples=16", "'samples' is 16 but should be a list"),
        (StudySettings, STUDY, "samples=[16,true]", "'samples' is [16, True] but should not be true or false"),
        (StudySettings, STUDY, "overrides=a=b", "'overrides' is 'a=b' but should be a list"),
        (StudySettings, STUDY, "overrides=[1]", "'overrides.0' is 1 but should be text"),
    ],
)  # fmt: skip
def test_a_wrong_list_or_range_is_named_down_to_its_item(tmp_path, cls, base, override, sentence):
    path = tmp_path / "c.yaml"
    path.write_text(base)
    assert mistake(cls, path, override).startswith(f"FILE with {override}: {sentence}")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optim", "'optim' is not a setting; write key=value or key.sub=value"),
        ("=3", "'=3' is not a setting; write key=value or key.sub=value"),
        (".lr=3", "'.lr=3' is not a setting; write key=value or key.sub=value"),
        ("optim..lr=3", "'optim..lr=3' is not a setting; write key=value or key.sub=value"),
        ("optim.=3", "'optim.=3' is not a setting; write key=value or key.sub=value"),
        ("run.x=3", "'run.x=3': 'run' is no section, so it has no 'x' inside"),
        ("optim.epochs.x.y=3", "'optim.epochs.x.y=3': 'epochs' is no section, so it has no 'x' inside"),
        ("optim={epochs: 3, epochs: 4}", "'optim={epochs: 3, epochs: 4}': the key 'epochs' is given twice; keep one"),
    ],
)
def test_what_is_no_override_is_refused_with_the_right_form(tmp_path, override, sentence):
    path = tmp_path / "c.yaml"
    path.write_text(TRAIN)
    assert mistake(TrainSettings, path, override) == sentence


def test_very_long_values_are_cut():
    with pytest.raises(UserError, match=r"'optim.epochs' is '?9{50,60}\.\.\. but should be ") as caught:
        load_settings(TrainSettings, None, ["run=r", "data.path=d", "optim.epochs=" + "9" * 4000])
    assert len(str(caught.value)) < 250
    with pytest.raises(UserError, match="'seed' is a number of thousands of digits but should be less than"):
        parse(TrainSettings, {**yaml.safe_load(TRAIN), "seed": 16**5000}, "here")


# ------------------------------------------------------------------ wrong files


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "FILE: the setting 'run' is missing"),
        (b"# nothing but a comment\n", "FILE: the setting 'run' is missing"),
        (
            b"run: r\ndata: {}\noptim: {epochs: 1}\n",
            "FILE: 'data' is {} but should have exactly one of path and mixture",
        ),
        (b"run: r\noptim: {epochs: 1}\n", "FILE: the setting 'data' is missing"),
        (b"run: r\ndata: {path: d}\noptim: {lr: 1}\n", "FILE: the setting 'optim.epochs' is missing"),
        (b"- run\n- seed\n", "FILE: settings are 'key: value' lines, not list"),
        (b"just words\n", "FILE: settings are 'key: value' lines, not str"),
        (b"42\n", "FILE: settings are 'key: value' lines, not int"),
        (b"run: a\nseed: 1\nrun: b\n", "the key 'run' is given twice (line 3 of FILE); keep one"),
        (b"optim:\n  lr: 1\n  lr: 2\n", "the key 'lr' is given twice (line 3 of FILE); keep one"),
        (b"optim.lr: 3\n", f"FILE: unknown setting 'optim.lr' (write 'lr' inside 'optim'); allowed here: {TOP}"),
        (b"1: 3\n", f"FILE: unknown setting '1'; allowed here: {TOP}"),
        (b"null: 3\n", f"FILE: unknown setting 'None'; allowed here: {TOP}"),
        (b"run: [a\n", "the settings file FILE is not YAML: while parsing a flow sequence"),
        (b"\trun: a\n", "the settings file FILE is not YAML: while scanning for the next token found character '\\t'"),
        (b"run: a\n---\nrun: b\n", "the settings file FILE is not YAML: expected a single document"),
        (b"? [a, b]\n: 3\n", "a list or a section stands where a key should be (line 1 of FILE); keys are names"),
        (b"seed: 2001-99-99\n", "the settings file FILE is not YAML: month must be in 1..12"),
        (b"!!bool x\n", "the settings file FILE is not YAML: "),
        (b"!!map x\n", "the settings file FILE is not YAML: expected a mapping node"),
        (b"seed: !!python/object/apply:os.getpid []\n", "the settings file FILE is not YAML: could not determine a"),
        (b"[" * 3000, "the settings file FILE: more than 100 sections are inside each other"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "the settings file FILE is no text: 'utf-8' codec can't decode byte 0x89"),
        (b"run: \x00\x01\n", "the settings file FILE is not YAML: unacceptable character #x0000"),
        (
            b"run: r\ndata: {path: d}\noptim: &a {epochs: *a}\n",
            "the settings file FILE: its aliases stand for more than 100,000 values",
        ),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_file_that_holds_no_settings_is_told_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    assert mistake(TrainSettings, path).startswith(sentence)


def test_a_place_that_is_no_file_is_told_in_one_sentence(tmp_path):
    missing = "there is no settings file FILE; give the path of a YAML file, such as those in configs/"
    (tmp_path / "c.yaml").write_text(TRAIN)
    assert mistake(TrainSettings, tmp_path / "no.yaml") == missing
    assert mistake(TrainSettings, tmp_path / "c.yaml" / "inside.yaml") == missing
    assert mistake(TrainSettings, tmp_path) == "the settings file FILE cannot be read: Is a directory"


def test_mistakes_without_a_file_are_those_of_the_command_line():
    with pytest.raises(UserError, match=r"^the command line: 'range' is 3 but should be a list$"):
        load_settings(GenerateSettings, None, ["system=poisson", "train=1", "valid=1", "test=1", "output=o", "range=3"])


# ------------------------------------------------------------------ what is right is read as meant


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("optim.lr=1e-3", "optim", "lr", 0.001),  # text to YAML 1.1, a number to people
        ("optim.lr=2", "optim", "lr", 2.0),
        ("optim.grad_clip=null", "optim", "grad_clip", None),
        ("optim.grad_clip=", "optim", "grad_clip", None),
        ("model.size=64K", "model", "size", "64K"),
        ("data.path=a=b", "data", "path", Path("a=b")),
        ("data.path='5'", "data", "path", Path("5")),
        ("data.path=@x", "data", "path", Path("@x")),  # no YAML, but a path
        ("monitor.pictures=no", "monitor", "pictures", False),
        ("checkpoint={keep: 7}", "checkpoint", "keep", 7),
    ],
)
def test_overrides_are_read_as_meant(tmp_path, override, section, key, value):
    path = tmp_path / "c.yaml"
    path.write_text(TRAIN)
    assert getattr(getattr(load_settings(TrainSettings, path, [override]), section), key) == value


def test_a_value_of_thousands_of_runs_is_read_once_and_belongs_to_each_alone(monkeypatch):
    """Planning a study of thousands of runs took most of its time to read the same overrides again."""
    read, load = [], yaml.load
    monkeypatch.setattr(yaml, "load", lambda text, **how: read.append(text) or load(text, **how))
    documents = [{} for _ in range(5)]
    for document in documents:
        apply_override(document, "model={width: 7, layers: 3}")
    assert len(read) <= 1
    documents[0]["model"]["width"] = 9
    assert documents[1:] == [{"model": {"width": 7, "layers": 3}}] * 4


def test_a_later_override_wins_and_an_empty_section_can_be_filled(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(TRAIN + "model:\n")
    settings = load_settings(TrainSettings, path, ["seed=1", "model.width=8", "seed=2"])
    assert (settings.seed, settings.model.width, settings.optim.epochs) == (2, 8, 3)


def test_what_a_merge_key_brings_may_be_given_again(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run: r\ndata: {path: d}\noptim: {<<: {epochs: 3, lr: 5}, lr: 0.5}\n")
    optim = load_settings(TrainSettings, path).optim
    assert (optim.epochs, optim.lr) == (3, 0.5)


def test_settings_cannot_be_changed_once_read():
    settings = load_settings(TrainSettings, None, ["run=r", "data.path=d", "optim.epochs=1"])
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3


FULL = {
    TrainSettings: TRAIN
    + "seed: 9223372036854775807\ninit: 'no'\nmodel: {size: 64K, width: 3}\n"
    + "engine: {timeout_s: 1.0e-7}\ncheckpoint: {every_epochs: null, every_minutes: 0.1}\nmonitor: {pictures: false}\n",
    GenerateSettings: GENERATE + "grid: 8\nseed: 5\n",
    StudySettings: STUDY + "overrides: ['optim.lr=1e-3', 'init=null']\nratio_below: 1.0\n",
}


@pytest.mark.parametrize("cls", FULL, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("full", [False, True], ids=["defaults", "all given"])
def test_settings_written_out_read_back_the_same(tmp_path, cls, full):
    text = FULL[cls] if full else {TrainSettings: TRAIN, GenerateSettings: GENERATE, StudySettings: STUDY}[cls]
    (tmp_path / "a.yaml").write_text(text)
    settings = load_settings(cls, tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(dump_settings(settings))
    again = load_settings(cls, tmp_path / "b.yaml")
    assert again == settings
    assert dump_settings(again) == dump_settings(settings)
    assert list(yaml.safe_load(dump_settings(settings))) == list(cls.model_fields)


CONFIGS = sorted(path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_settings_file_that_comes_along_is_right(path):
    if path.parts[0] == "scale":
        return  # part of a study: tests/study/test_configs.py plans every study that stands on it
    if path.parts[0] not in CLASSES:
        pytest.fail(f"configs/{path.parts[0]} has no class in CLASSES of this test")
    load_settings(CLASSES[path.parts[0]], ROOT / "configs" / path)


def test_there_are_settings_files_of_every_kind():
    assert {path.parts[0] for path in CONFIGS} >= CLASSES.keys()


def test_every_setting_has_a_description():
    def fields(cls, prefix=""):
        for name, field in cls.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Schema):
                yield from fields(field.annotation, f"{prefix}{name}.")
            else:
                yield prefix + name, field.description

    assert [name for cls in FULL for name, description in fields(cls) if not description] == []


# ------------------------------------------------------------------ any document, also those that are no settings


class Inner(Schema):
    size: int = 1
    exact: bool = False


class Document(Schema):
    path: int = 1  # a key with the name of a type
    either: int | Literal["auto"] = 1
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] | None = None
    flags: tuple[bool, ...] = ()
    anything: dict[str, Any] | None = None


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"path": "x"}, "'path' is 'x' but should be a whole number"),
        ({"either": "x"}, "'either' is 'x' but should be"),
        ({"many": [{}, {"size": "x"}]}, "'many.1.size' is 'x' but should be a whole number"),
        ({"many": [{"sise": 1}]}, "unknown setting 'many.0.sise' (did you mean 'size'?); allowed here: size, exact"),
        ({"many": {"size": 1}}, "'many' is {'size': 1} but should be a list"),
        ({"named": {"path": {"size": []}}}, "'named.path.size' is [] but should be a whole number"),
        ({"named": {"a": 3}}, "'named.a' is 3 but should be a section of settings; allowed in it: size, exact"),
        ({"named": {"a": {"size": True}}}, "'named.a.size' is true but should not be true or false"),
        ({"named": 3}, "'named' is 3 but should be a section of keys and values"),
        ([1], "a mapping of keys to values is needed, not [1]"),
        (None, "a mapping of keys to values is needed, not null"),
    ],
)
def test_a_wrong_document_is_named_down_to_its_entry(document, sentence):
    with pytest.raises(UserError, match="^here: " + re.escape(sentence)):
        parse(Document, document, "here")


def test_true_and_false_serve_where_they_are_meant():
    document = {"many": [{"exact": True}], "named": {"a": {"exact": True}}, "flags": [True], "anything": {"a": True}}
    parsed = parse(Document, document, "here")
    assert parsed.flags == (True,)
    assert parsed.many[0].exact
    assert parsed.anything == {"a": True}


def test_the_sizes_of_the_settings_are_those_of_the_model():
    """Settings know nothing of the model and the model knows nothing of settings."""
    assert get_args(Size) == tuple(SIZES)
