"""On a GPU: every engine over NCCL follows the plain loop, and a checkpoint brings it back to the bit.

One process and a group of one: what is tested is that DDP's wrapper and DeepSpeed's stages work on the device at all.
"""

import json
import math
import subprocess
import sys

import pytest
import torch

from fmsci.config.sections import EngineSettings, OptimSettings
from fmsci.dataset.loader import Batch, Piece
from fmsci.dataset.order import epoch_order
from fmsci.engine.build import build_engine
from fmsci.engine.ddp import DDPEngine
from fmsci.engine.group import process_group
from fmsci.train.optim import build_optimizer
from fmsci.world import World
from tests.commands import clean_environment
from tests.engine.curves import BATCH, LR, NUM_SAMPLES, Remembered, build_operator
from tests.engine.test_engines import ROOT, plain

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU on this machine"),
    pytest.mark.filterwarnings("ignore"),  # DeepSpeed's, as it is imported
]
STEPS, MIDDLE = 15, 6
ENGINES = {"ddp": {"kind": "ddp", "replay": False}, "ddp replayed": {"kind": "ddp"}}
ENGINES |= {f"zero{stage}": {"kind": "zero", "zero_stage": stage} for stage in (0, 1, 2, 3)}
ENGINES |= {f"zero{stage} offload": {"kind": "zero", "zero_stage": stage, "offload": True} for stage in (1, 2, 3)}


@pytest.fixture(scope="module", autouse=True)
def nccl():
    """A group of one over NCCL."""
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    with process_group(World(), device, 120.0, always=True):
        assert torch.distributed.get_backend() == "nccl"
        yield


def build(settings, **how):
    """Return an engine around the tests' model on the GPU."""
    operator = build_operator().cuda()
    optimizer = build_optimizer(operator, OptimSettings(epochs=1, lr=LR))
    if how:
        return DDPEngine(operator, optimizer, World(), None, **how)
    return build_engine(EngineSettings(**settings), operator, optimizer, World(), None)


def batch_of(step):
    """Return the batch of a step on the GPU: 5, 5 and 3 samples in turn, as the plain loop takes them."""
    chosen = epoch_order(0, step // 3, NUM_SAMPLES)[step % 3 * BATCH :][:BATCH]
    samples = Remembered().gather(chosen).to(torch.device("cuda"))
    return Batch((Piece(samples, len(chosen)),), len(chosen))


def train(engine, first=0, last=STEPS):
    return [engine.step(batch_of(step), LR).tolist() for step in range(first, last)]


@pytest.mark.parametrize("name", ENGINES)
def test_it_follows_the_plain_loop_and_a_checkpoint_brings_it_back_to_the_bit(name, tmp_path):
    """The plain loop runs on the CPU: rounding differs, and Adam carries that on. So do a GPU's sums."""
    engine = build(ENGINES[name])
    curve = train(engine, 0, MIDDLE)
    saved = engine.snapshot()
    saved.write(tmp_path)
    curve += train(engine, MIDDLE)
    assert torch.tensor(curve).numpy() == pytest.approx(torch.tensor(plain(steps=STEPS)).numpy(), rel=1e-3)
    expected = torch.tensor(curve[MIDDLE:]).numpy()
    engine.load(tmp_path)  # as a run does that goes back before a step: what it recorded reads these weights
    assert torch.tensor(train(engine, MIDDLE)).numpy() == pytest.approx(expected, rel=1e-4)
    again = build(ENGINES[name])
    again.load(tmp_path)
    loaded = again.snapshot()
    for mine, other in ((saved.weights, loaded.weights), (saved.optimizer, loaded.optimizer)):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine)
    assert torch.tensor(train(again, MIDDLE)).numpy() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("compress", [False, True])
def test_ddp_wrapped_reduces_over_nccl(compress):
    """One rank has no wrapper by itself: asked for, its hooks run over NCCL. Compressed, gradients are rounded."""
    engine = build(None, switches={}, compress=compress)
    assert engine.parallel is not None
    curve, expected = train(engine), plain(steps=STEPS)
    rel = 1e-2 if compress else 1e-3
    assert torch.tensor(curve).numpy() == pytest.approx(torch.tensor(expected).numpy(), rel=rel)


@pytest.mark.parametrize("compress", [False, True])
def test_what_several_ranks_replay_is_summed_over_nccl(compress):
    """One of two ranks, alone in its group, with all samples: the other would add nothing."""
    operator = build_operator().cuda()
    optimizer = build_optimizer(operator, OptimSettings(epochs=1, lr=LR))
    engine = DDPEngine(operator, optimizer, World(0, 2), None, replay=True, compress=compress)
    assert engine.parallel is None
    curve, expected = train(engine), plain(steps=STEPS)
    assert len(engine.replayed._recordings) == 2  # of 5 and of 3 samples
    rel = 1e-2 if compress else 1e-3
    assert torch.tensor(curve).numpy() == pytest.approx(torch.tensor(expected).numpy(), rel=rel)


def test_two_ranks_replay_and_follow_the_plain_loop(tmp_path):
    """Over gloo, as NCCL lets no two ranks share a GPU."""
    output, cases = tmp_path / "curves.json", [{"name": "replayed", "engine": {"replayed": True}, "steps": STEPS}]
    words = ["-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "tests.engine.curves", output]
    words = [sys.executable, *map(str, words), json.dumps(cases), "cuda"]
    done = subprocess.run(
        words, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())["replayed"]
    assert found["recorded"] == 2
    assert torch.tensor(found["curve"]).numpy() == pytest.approx(torch.tensor(plain(steps=STEPS)).numpy(), rel=1e-3)


def test_a_gradient_that_is_not_finite_is_told_by_the_device():
    engine = build({"kind": "ddp", "replay": False})
    handle = engine.operator.register_forward_hook(
        lambda module, inputs, u: u.register_hook(lambda gradient: gradient * 1e38 * 1e38) and None
    )
    loss, error = engine.step(batch_of(0), LR).tolist()
    handle.remove()
    assert math.isnan(loss)
    assert math.isfinite(error)
