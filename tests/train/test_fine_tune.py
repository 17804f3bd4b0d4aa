"""Fine-tuning: starts exactly at the pretrained model, keeps its scales, and refuses what does not fit."""

import json
import shutil
from itertools import pairwise

import pytest
import torch

from fmsci.config import TrainSettings, load_settings
from fmsci.config.sections import OptimSettings
from fmsci.errors import UserError
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture
from fmsci.model_folder.reading import open_model_folder
from fmsci.model_folder.weights import load_operator
from fmsci.tensors import each_tensor, write_tensors
from fmsci.train.dry_run import describe, dry_run
from fmsci.train.extend import extended_scales, load_extended
from fmsci.train.learning_rate import learning_rate
from tests.commands import run
from tests.conftest import TRAINING


@pytest.fixture(scope="module")
def downstream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("downstream") / "poisson"
    sizes = ["--grid", "16", "--train", "6", "--valid", "7", "--test", "5"]
    run(["generate", "--system", "poisson", "--range", "5", "10", *sizes, "--output", folder])
    return folder


def test_it_starts_at_the_pretrained_model_and_keeps_its_scales(trained, train_config, downstream, tmp_path):
    shifted = [f"run={tmp_path / 'run'}", f"data.path={downstream}", f"init={trained / 'model'}"]
    run(["train", train_config, *TRAINING[3:], *shifted])
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    zero_shot = tmp_path / "zero.json"
    run(["evaluate", trained / "model", "--data", downstream, "--split", "valid", "--output", zero_shot])
    assert first["step"] == 0
    assert first["valid/poisson/rel_l2"] == pytest.approx(json.loads(zero_shot.read_text())["rel_l2"], rel=1e-6)
    scales = [
        json.loads((folder / "model" / "normalization.json").read_text()) for folder in (trained, tmp_path / "run")
    ]
    assert scales[0] == scales[1]
    own = json.loads((downstream / "manifest.json").read_text())["scales"]
    assert own["coefficients"]["k11"] != scales[0]["coefficients"]["k11"]


def test_the_architecture_comes_from_the_pretrained_model(trained, train_config, tmp_path):
    settings = load_settings(TrainSettings, train_config, [f"run={tmp_path}", f"init={trained / 'model'}"])
    facts = dry_run(settings, 1)
    assert (facts["width"], facts["modes"], facts["layers"]) == (4, 4, 2)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("model.width=5", "model.width is 5 by the settings but 4 in"),
        ("model.size=1M", "model.modes is 16 by the settings but 4 in"),
    ],
)
def test_a_contradicting_architecture_is_refused(trained, train_config, tmp_path, setting, sentence):
    printed = run(["train", train_config, f"run={tmp_path / 'run'}", f"init={trained / 'model'}", setting], code=2)
    assert sentence in printed
    assert "leave model.* out when init names a model" in printed
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_model_is_refused(train_config, tmp_path):
    assert "is no model folder" in run(["train", train_config, f"run={tmp_path / 'r'}", f"init={tmp_path}"], code=2)


def spoilt(how, tensors):
    name = "fno.layers.0.pointwise"
    if how == "rank":
        tensors[name] = tensors[name].unsqueeze(-1)
    elif how == "type":
        tensors[name] = tensors[name].double()
    elif how == "nan":
        tensors[name] = torch.full_like(tensors[name], float("nan"))
    elif how == "lacks":
        del tensors[name]
    else:
        tensors["more"] = tensors[name].clone()
    return tensors


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("rank", "does not fit its architecture: fno.layers.0.pointwise"),
        ("type", "does not fit its architecture: fno.layers.0.pointwise"),
        ("lacks", "does not fit its architecture: fno.layers.0.pointwise"),
        ("more", "does not fit its architecture: more"),
        ("nan", "fno.layers.0.pointwise is not finite"),
    ],
)
@pytest.mark.parametrize("new", [False, True])
def test_weights_that_are_not_the_models_are_refused_by_each_reader_alike(trained, tmp_path, how, sentence, new):
    """Loading a model, starting from one, and starting from one that knows fewer coefficients."""
    folder = shutil.copytree(trained / "model", tmp_path / "model")
    write_tensors(folder / "model.safetensors", spoilt(how, dict(each_tensor(folder / "model.safetensors"))))
    opened = open_model_folder(folder)
    more = {"v1": 1.0} if new else {}
    scales = extended_scales(opened.scales, Scales(source=1.0, coefficients={**opened.scales.coefficients, **more}))
    facts = opened.architecture
    operator = SolutionOperator(Architecture(facts.in_channels + new, facts.width, facts.modes, facts.layers), scales)
    for load in (lambda: load_operator(folder), lambda: load_extended(operator, opened)):
        with pytest.raises(UserError, match=f"model.safetensors:? {sentence}.*; make the model anew"):
            load()


@pytest.mark.parametrize(
    ("world_size", "accumulate", "largest", "smallest", "piece"),
    [(1, 1, 5, 5, 5), (2, 1, 3, 2, 3), (3, 2, 2, 1, 1), (8, 1, 1, 0, 1)],
)
def test_a_dry_run_says_how_a_batch_is_cut(train_config, tmp_path, world_size, accumulate, largest, smallest, piece):
    arguments = ["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, f"engine.accumulate={accumulate}"]
    facts = json.loads(run([*arguments, "--dry-run", "--world-size", world_size, "--json"]).splitlines()[-1])
    assert (facts["local_batch_largest"], facts["local_batch_smallest"], facts["piece_largest"]) == (
        largest,
        smallest,
        piece,
    )
    parameters = facts["parameters"]
    assert facts["weight_bytes"] + facts["gradient_bytes"] + facts["optimizer_bytes"] == 16 * parameters
    assert (facts["steps"], facts["global_batch"], facts["train_samples"]) == (12, 5, 13)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("stage", "bytes_of_one"), [(0, 16), (1, 11), (2, 8), (3, 5)])
def test_a_dry_run_tells_what_each_rank_holds(train_config, tmp_path, stage, bytes_of_one):
    """On 4 ranks: 4 + 4 + 8 bytes of a parameter, of which ZeRO cuts up more and more (12 for its optimizer)."""
    zero = ["engine.kind=zero", f"engine.zero_stage={stage}"]
    facts = dry_run(load_settings(TrainSettings, train_config, [f"run={tmp_path / 'run'}", *TRAINING, *zero]), 4)
    held = facts["weight_bytes"] + facts["gradient_bytes"] + facts["optimizer_bytes"]
    assert held == pytest.approx(bytes_of_one * facts["parameters"], rel=1e-3)


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_dry_run_tells_the_bytes_that_are_sent_and_counts_what_is_trained(train_config, tmp_path, ranks):
    """Width 4, modes 4, 2 layers: 20 numbers of lift, 1,044 of each layer, 49 of the head."""
    whole, trained = 20 + 2 * 1044 + 49, 1044 + 49
    freeze = "optim.freeze=[lift, layers.0]"
    for more, learning in (([], whole), ([freeze], trained)):
        for stage in (None, 1, 2, 3):
            zero = [] if stage is None else ["engine.kind=zero", f"engine.zero_stage={stage}", "engine.accumulate=2"]
            settings = load_settings(TrainSettings, train_config, [f"run={tmp_path}", *TRAINING, *zero, *more])
            facts = dry_run(settings, ranks)
            assert (facts["parameters"], facts["trained_parameters"]) == (whole, learning)
            assert facts["checkpoint_bytes"] == 4 * whole + 8 * learning
            rounds = {
                None: 2 * learning,  # one all-reduce
                1: 3 * learning,  # and an all-gather of what was trained
                2: 2 * 2 * learning + learning,  # an all-reduce for each of two pieces
                3: 2 * (whole + learning),  # every piece gathers all and scatters what has a gradient
            }
            assert facts["step_bytes"] == 4 * rounds[stage] * (ranks - 1) // ranks
            held = facts["weight_bytes"] + facts["gradient_bytes"] + facts["optimizer_bytes"]
            cut = {None: (1, 1, 1), 1: (1, 1, ranks), 2: (1, ranks, ranks), 3: (ranks,) * 3}[stage]
            moments = (2 if stage is None else 3) * learning
            assert held == sum(-(-4 * size // by) for size, by in zip((whole, learning, moments), cut, strict=True))
    rows = dict(describe(facts))
    assert rows["real parameters"].startswith(f"{whole:,}, {trained:,} of them trained (width 4")


def test_a_dry_run_names_a_block_that_is_not_there(train_config, tmp_path):
    settings = load_settings(TrainSettings, train_config, [f"run={tmp_path}", *TRAINING, "optim.freeze=[tail]"])
    with pytest.raises(UserError, match=r"^optim.freeze names 'tail'; a model has lift"):
        dry_run(settings, 2)


def test_a_dry_run_foretells_the_checkpoint(trained, train_config):
    settings = load_settings(TrainSettings, train_config, [f"run={trained}", *TRAINING])
    foretold = dry_run(settings, 1)["checkpoint_bytes"]
    (newest,) = sorted((trained / "checkpoints").glob("step-*"))[-1:]
    written = sum(path.stat().st_size for path in newest.glob("*.safetensors"))
    assert foretold == pytest.approx(written, rel=0.35)  # the names in the files weigh something in so small a model
    assert foretold < written


def test_a_dry_run_tells_what_would_refuse_the_run(trained, train_config, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")  # a refused start forgets how the one before ended
    arguments = ["train", train_config, f"run={folder}", *TRAINING, "optim.epochs=9"]
    refusal = f"{folder} holds a run with optim.epochs=4, not 9; choose another run= or remove it"
    assert refusal in run([*arguments, "--dry-run"], code=2)
    assert refusal in run(arguments, code=2)


def test_warm_up_rises_to_the_peak_then_cosine_falls_to_zero():
    settings = OptimSettings(lr=1.0, epochs=1, warmup=4)
    rates = [learning_rate(settings, 1.0, step, 20) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(a > b for a, b in pairwise(rates[4:]))
    assert rates[12] == pytest.approx(0.5)
    assert learning_rate(settings, 1.0, 20, 20) == pytest.approx(0.0)
    assert learning_rate(OptimSettings(lr=0.5, epochs=1, schedule="constant"), 0.5, 17, 20) == 0.5
