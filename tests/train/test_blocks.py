"""Fine-tuning by blocks: frozen ones stay, rates have their factors, new coefficients change nothing at the start."""

import pytest
import torch

from fmsci.checkpoint import newest_checkpoint
from fmsci.config import TrainSettings, load_settings
from fmsci.config.sections import OptimSettings
from fmsci.dataset.loader import Batch, Piece
from fmsci.engine.ddp import DDPEngine
from fmsci.errors import UserError
from fmsci.model_folder.weights import load_operator
from fmsci.tensors import each_tensor
from fmsci.train.build import build_job
from fmsci.train.learning_rate import learning_rate, peak_lr
from fmsci.train.optim import build_optimizer, in_block
from fmsci.world import World
from tests.commands import run
from tests.conftest import TRAINING
from tests.engine.curves import Remembered, build_operator

TUNE = [item for item in TRAINING if not item.startswith("model.")]


@pytest.mark.distributed
def test_frozen_blocks_keep_their_bits_in_both_engines(trained, train_config, tmp_path):
    arguments = ["train", train_config, *TUNE, f"init={trained / 'model'}", "optim.freeze=[lift, layers.0]"]
    before = dict(each_tensor(trained / "model" / "model.safetensors"))
    after = {}
    for kind in ("ddp", "zero"):
        folder = tmp_path / kind
        run([*arguments, f"run={folder}", f"engine.kind={kind}", "engine.zero_stage=2"], ranks=2)
        newest = newest_checkpoint(folder)[0]
        after[kind] = dict(each_tensor(newest / "model.safetensors"))
        moments = {key.partition(".")[2] for key in dict(each_tensor(newest / "optimizer.safetensors"))}
        for name, tensor in after[kind].items():
            frozen = in_block(name, "lift") or in_block(name, "layers.0")
            assert torch.equal(tensor, before[name]) == frozen, name
            assert (name in moments) != frozen, name
    assert any(in_block(name, "lift") for name in before)
    for name in before:
        assert torch.allclose(after["ddp"][name], after["zero"][name], rtol=1e-4, atol=1e-6), name


def test_each_block_moves_by_its_own_rate():
    """Adam's first step is the rate in every number whose gradient is far above its epsilon."""
    operator = build_operator()
    before = {name: tensor.clone() for name, tensor in operator.state_dict().items()}
    settings = OptimSettings(epochs=1, lr_factors={"layers": 2.0, "layers.1": 0.5, "head": 0.1})
    engine = DDPEngine(operator, build_optimizer(operator, settings), World(), None)
    engine.step(Batch((Piece(Remembered().gather([0, 1, 2]), 3),), 3), lr=1e-3)
    for block, factor in (("lift", 1.0), ("layers.0", 2.0), ("layers.1", 0.5), ("head", 0.1)):
        moved = [
            float((tensor - before[name]).abs().max())
            for name, tensor in operator.state_dict().items()
            if in_block(name, block)
        ]
        assert moved
        assert max(moved) == pytest.approx(1e-3 * factor, rel=1e-3), block


def test_a_block_that_the_model_does_not_have_is_a_sentence():
    with pytest.raises(UserError, match=r"^optim.freeze names 'layers.7'; a model has lift, layers, layers.0"):
        build_optimizer(build_operator(), OptimSettings(epochs=1, freeze=("layers.7",)))
    with pytest.raises(UserError, match=r"^optim.lr_factors names 'tail'"):
        build_optimizer(build_operator(), OptimSettings(epochs=1, lr_factors={"tail": 2.0}))
    with pytest.raises(UserError, match="nothing is left to train"):
        build_optimizer(build_operator(), OptimSettings(epochs=1, freeze=("lift", "layers", "head")))


def test_a_model_with_more_coefficients_starts_as_the_same_function(trained, train_config, tmp_path):
    data = tmp_path / "advection"
    sizes = ["--grid", "16", "--train", "6", "--valid", "4", "--test", "2"]
    run(["generate", "--system", "advection_diffusion", "--range", "0.2", "1", *sizes, "--output", data])
    overrides = [f"run={tmp_path / 'run'}", *TUNE, f"init={trained / 'model'}", f"data.path={data}"]
    job = build_job(load_settings(TrainSettings, train_config, overrides), World(), torch.device("cpu"))
    assert job.scales.columns == ("k11", "k22", "k12", "v1", "v2")
    samples = job.loader.samples.gather(torch.arange(6).numpy())
    assert samples.coefficients[:, 3:].abs().max() > 0
    with torch.no_grad():
        expected = load_operator(trained / "model")(samples.source, samples.coefficients[:, :3])
    found = job.engine.predict(samples.source, samples.coefficients)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)
    for index, batch in enumerate(job.loader.epoch(0)):
        job.engine.step(batch, 1e-3)
        assert index < 2
    lift = next(tensor for name, tensor in job.engine.weights().items() if in_block(name, "lift") and tensor.ndim > 1)
    assert float(lift[..., -2:].abs().min()) > 0  # and learns what the new ones mean


@pytest.mark.parametrize(
    ("num_parameters", "rate"),
    [(67_281, 1e-2), (1_053_000, 1e-2), (2_000_000, 1e-2), (2_000_001, 3e-3), (16_794_000, 3e-3), (268_535_425, 3e-3)],
)
def test_the_rate_where_none_is_set_goes_by_the_size(num_parameters, rate):
    """The table of docs/benchmarks.md; a pretrained model starts from the paper's rate; a rate that is set counts."""
    settings = OptimSettings(epochs=1)
    assert peak_lr(settings, num_parameters) == rate
    assert peak_lr(settings, num_parameters, pretrained=True) == 1e-3
    assert peak_lr(OptimSettings(epochs=1, lr=0.5), num_parameters, pretrained=True) == 0.5


def test_the_cosine_falls_once_an_epoch_where_that_is_wanted():
    settings = OptimSettings(epochs=4, schedule_by="epoch")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), T_max=4)
    for epoch in range(4):
        rates = [learning_rate(settings, 0.1, 3 * epoch + step, 12, 3) for step in range(3)]
        assert rates == pytest.approx(3 * schedule.get_last_lr())
        schedule.optimizer.step()
        schedule.step()
