"""A run goes on where its data have moved to, not where others are in their place; what it keeps at its end."""

import json
import shutil

import pytest

from fmsci.config import TrainSettings, load_settings
from fmsci.errors import SettingsError, UserError
from fmsci.train.recorded import check_recorded, record
from tests.commands import run
from tests.conftest import TRAINING


def test_data_may_move_but_not_become_others(poisson_data, trained, train_config, tmp_path):
    mine = [*TRAINING, f"run={tmp_path / 'run'}", "checkpoint.keep=9"]
    old = shutil.copytree(poisson_data, tmp_path / "old")
    run(["train", train_config, *mine, f"data.path={old}"])
    for step in (9, 12):  # as if it had been stopped after six steps
        shutil.rmtree(tmp_path / f"run/checkpoints/step-{step:08}")
    (tmp_path / "run/result.json").unlink()
    new = old.rename(tmp_path / "new")
    assert "after step 6" in run(["train", train_config, *mine, f"data.path={new}"])
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == (trained / "model/model.safetensors").read_bytes()

    sizes = ["--grid", "16", "--train", "13", "--valid", "7", "--test", "5"]
    other = tmp_path / "other"
    run(["generate", "--system", "poisson", "--range", "1", "5", *sizes, "--seed", "1", "--output", other])
    printed = run(["train", train_config, *mine, f"data.path={other}"], code=2)
    assert f"holds a run with data.path={new}, not {other}" in printed


def test_the_model_that_a_run_starts_from_may_move_but_not_become_another(trained, train_config, tmp_path):
    def mine(model):
        return load_settings(TrainSettings, train_config, [f"run={tmp_path / 'run'}", f"init={model}"])

    old, other = (shutil.copytree(trained / "model", tmp_path / name) for name in ("old", "other"))
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    record(mine(old))
    new = old.rename(tmp_path / "new")
    check_recorded(mine(new))
    record(mine(new))  # it goes on from its own checkpoint: what is there now does not count
    with pytest.raises(UserError, match=f"holds a run with init={new}, not {other}"):
        check_recorded(mine(other))
    with pytest.raises(UserError, match=r"there is no model in .*/old; give a model folder such as RUN/model$"):
        check_recorded(mine(old))
    (tmp_path / "run" / "init.json").write_text("{}")
    with pytest.raises(UserError, match=r"/run/init.json: the setting 'model' is missing"):
        check_recorded(mine(other))


def test_other_data_at_the_same_place_are_refused_even_by_a_finished_run(poisson_data, train_config, tmp_path):
    data, mine = tmp_path / "data", [*TRAINING, f"run={tmp_path / 'run'}", f"data.path={tmp_path / 'data'}"]
    shutil.copytree(poisson_data, data)
    run(["train", train_config, *mine])
    before = (tmp_path / "run/data.json").read_bytes()
    data.rename(tmp_path / "away")
    sizes = ["--grid", "16", "--train", "13", "--valid", "7", "--test", "5"]
    run(["generate", "--system", "poisson", "--range", "1", "5", *sizes, "--seed", "1", "--output", data])
    sentence = f"run holds a run on other data than {data} holds now (seed 1, not 0); choose another run= or remove it"
    assert sentence in run(["train", train_config, *mine, "--test"], code=2)
    assert sentence in run(["train", train_config, *mine, "--dry-run"], code=2)
    for step in (9, 12):  # as if it had been stopped after six steps
        shutil.rmtree(tmp_path / f"run/checkpoints/step-{step:08}", ignore_errors=True)
    (tmp_path / "run/result.json").unlink()
    assert sentence in run(["train", train_config, *mine], code=2)
    assert (tmp_path / "run/data.json").read_bytes() == before
    shutil.rmtree(data)
    (tmp_path / "away").rename(data)
    run(["train", train_config, *mine])
    shutil.rmtree(data)
    assert "is finished already" in run(["train", train_config, *mine])


def test_imported_data_are_known_by_their_checksums(poisson_data, train_config, tmp_path):
    data = shutil.copytree(poisson_data, tmp_path / "data")
    facts = json.loads((data / "manifest.json").read_text())
    facts["seed"] = None
    (data / "manifest.json").write_text(json.dumps(facts))
    settings = load_settings(TrainSettings, train_config, [f"run={tmp_path / 'run'}", f"data.path={data}"])
    record(settings)
    check_recorded(settings)
    facts["splits"]["train"]["shards"][0]["checksum"] = "0" * 64
    (data / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(SettingsError, match=r"on other data than .*/data holds now \(other samples\); choose another"):
        check_recorded(settings)
    for damaged in ("[]", "{}", "[3]"):
        (tmp_path / "run/data.json").write_text(damaged)
        with pytest.raises(SettingsError, match=r"on other data than .*/data holds now; choose another run="):
            check_recorded(settings)


def test_another_model_at_the_same_place_is_refused_until_there_is_a_checkpoint(trained, train_config, tmp_path):
    init = shutil.copytree(trained / "model", tmp_path / "init")
    mine = load_settings(TrainSettings, train_config, [f"run={tmp_path / 'run'}", f"init={init}"])
    record(mine)
    check_recorded(mine)
    weights = bytearray((init / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (init / "model.safetensors").write_bytes(weights)
    with pytest.raises(SettingsError, match=f"run holds a run from another model than {init} is now; choose another"):
        check_recorded(mine)
    (tmp_path / "run/checkpoints/step-00000003").mkdir(parents=True)
    check_recorded(mine)  # it goes on from its own


def test_a_run_that_keeps_no_checkpoints_has_none_when_it_is_finished(trained, train_config, tmp_path):
    mine = ["train", train_config, *TRAINING, f"run={tmp_path / 'run'}", "checkpoint.keep_finished=false"]
    run(mine)
    assert not (tmp_path / "run/checkpoints").exists()
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == (trained / "model/model.safetensors").read_bytes()
    assert "finished already" in run([*mine, "--test"])
    assert (tmp_path / "run/evaluations").is_dir()
