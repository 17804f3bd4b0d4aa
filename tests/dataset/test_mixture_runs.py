"""Training on a mixture, fine-tuning and measuring what comes of it, through the real command."""

import json

import pytest

from fmsci.config import TrainSettings, load_settings
from fmsci.errors import UserError
from fmsci.model_folder.reading import open_model_folder
from fmsci.pde import NAMES
from fmsci.train.build import choose_model
from fmsci.train.dry_run import dry_run
from tests.commands import run
from tests.conftest import TRAINING

MIXED = [*TRAINING, "optim.epochs=3"]


def entries(folder, name):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_each_system_is_validated_and_the_mean_decides(mixed, three_systems):
    of_system = [entries(mixed, f"valid/{system}/rel_l2") for system in three_systems]
    means = [sum(values) / 3 for values in zip(*of_system, strict=True)]
    assert len(means) == 4  # before the first step and after each epoch
    assert entries(mixed, "valid/rel_l2") == pytest.approx(means, rel=1e-12)
    assert json.loads((mixed / "result.json").read_text())["best"]["valid_rel_l2"] == pytest.approx(min(means))
    measured = open_model_folder(mixed / "model").config.measured
    assert measured["valid_samples"] == 7 + 3 + 3
    assert measured["valid_helmholtz_rel_l2"] in of_system[2]


def test_the_model_says_what_it_was_trained_on(mixed, three_systems):
    folder = open_model_folder(mixed / "model")
    assert folder.scales.columns == tuple(NAMES)
    assert folder.architecture.in_channels == 7
    assert folder.config.trained_on["data"] == (
        f"{three_systems['poisson']} (13 samples, 15 an epoch), "
        f"{three_systems['advection_diffusion']} (10 samples, 8 an epoch), "
        f"{three_systems['helmholtz']} (8 samples, 8 an epoch)"
    )
    ranges = folder.training_range
    assert (ranges.systems, ranges.grid) == (tuple(three_systems), 16)
    assert ranges.coefficients["v1"][0] < 0 < ranges.coefficients["v1"][1]
    assert ranges.coefficients["w"][0] == 0  # the others have none
    assert 1 <= ranges.coefficients["w"][1] <= 10
    assert 0 < ranges.coefficients["k22"][0] < ranges.coefficients["k22"][1] <= 0.05 * (1 + 1e-6)  # helmholtz' k11 too
    assert ranges.keeps_mean


@pytest.mark.distributed
def test_three_ranks_and_a_cache_follow_the_same_curve(mixed, mixture_config, tmp_path):
    run(["train", mixture_config, f"run={tmp_path / 'run'}", *MIXED, "data.cache=host"], ranks=3)
    for name in ("train/loss", "valid/poisson/rel_l2", "valid/advection_diffusion/rel_l2", "valid/helmholtz/rel_l2"):
        assert entries(tmp_path / "run", name) == pytest.approx(entries(mixed, name), rel=1e-5)


def test_a_mixture_model_is_measured_on_one_system(mixed, three_systems, tmp_path):
    """The measurement on a folder is the one that training made on its validation samples."""
    for system, folder in three_systems.items():
        output = tmp_path / f"{system}.json"
        run(["evaluate", mixed / "model", "--data", folder, "--split", "valid", "--output", output])
        best = open_model_folder(mixed / "model").config.measured[f"valid_{system}_rel_l2"]
        assert json.loads(output.read_text())["rel_l2"] == pytest.approx(best, rel=1e-5)


def test_a_mixture_model_is_fine_tuned_on_one_system_and_tested(mixed, train_config, tmp_path):
    own = [f"run={tmp_path / 'run'}", f"init={mixed / 'model'}", *TRAINING[3:], "optim.epochs=1"]
    printed = run(["train", train_config, *own, "--test"])
    assert "test error" in printed
    assert open_model_folder(tmp_path / "run" / "model").scales == open_model_folder(mixed / "model").scales
    start = entries(tmp_path / "run", "valid/poisson/rel_l2")[0]
    assert start == pytest.approx(open_model_folder(mixed / "model").config.measured["valid_poisson_rel_l2"], rel=1e-5)


def test_testing_a_mixture_measures_every_folder(mixed, mixture_config, three_systems):
    printed = run(["train", mixture_config, f"run={mixed}", *MIXED, "--test", "--json"])
    test = json.loads(printed.splitlines()[-1])["test"]
    assert [part["system"] for part in test["folders"]] == list(three_systems)
    assert test["count"] == 5 + 2 + 2
    assert test["rel_l2"] == pytest.approx(sum(part["rel_l2"] for part in test["folders"]) / 3)


def test_a_dry_run_counts_the_mixture(mixture_config):
    facts = dry_run(load_settings(TrainSettings, mixture_config, MIXED), 2)
    assert (facts["train_samples"], facts["steps"], facts["global_batch"]) == (31, 21, 5)


# ------------------------------------------------------------------ mistakes


def test_a_model_of_one_system_is_extended_to_take_a_mixture(trained, mixture_config):
    settings = load_settings(TrainSettings, mixture_config, [f"init={trained / 'model'}"])
    chosen, scales, _, folder = choose_model(settings)
    assert (chosen.in_channels, scales.columns) == (7, tuple(NAMES))
    assert {name: scales.coefficients[name] for name in folder.scales.columns} == folder.scales.coefficients


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.path=d", "should have exactly one of path and mixture"),
        ("data.mixture=null", "should have exactly one of path and mixture"),
        ("data.train_samples=3", "should have train_samples inside the entries of its mixture"),
        ("data.subset=3", "should have no subset with a mixture: of each entry the first train_samples are taken"),
        ("data.mixture=[]", "'data.mixture' is [] but should have at least 1 item"),
        ("data.mixture=[{path: a/d}, {path: b/d}]", "not two called 'd'"),
        ("data.mixture=[{path: d, weight: 0}]", "'data.mixture.0.weight' is 0 but should be greater than 0"),
        ("data.mixture=[{path: d, wieght: 1}]", "unknown setting 'data.mixture.0.wieght' (did you mean 'weight'?)"),
        ("data.mixture=[{weight: 1}]", "the setting 'data.mixture.0.path' is missing"),
    ],
)
def test_a_wrong_mixture_is_a_sentence(mixture_config, override, sentence):
    with pytest.raises(UserError) as caught:
        load_settings(TrainSettings, mixture_config, [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
