"""Which steps are recorded; that what cannot be is trained without; on a GPU, that a replay is the step itself."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fmsci.config import TrainSettings
from fmsci.config.sections import EngineSettings, OptimSettings
from fmsci.dataset.loader import Batch, Piece
from fmsci.dataset.samples import Samples
from fmsci.engine import replay
from fmsci.engine.build import build_engine
from fmsci.engine.replay import Replayed
from fmsci.engine.replay_rule import numbers_of_step, replays
from fmsci.metrics import LOSSES
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture, architecture
from fmsci.train.build import Job
from fmsci.train.optim import build_optimizer
from fmsci.world import World

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="torch finds no GPU on this machine")


@pytest.mark.parametrize(
    ("settings", "ranks", "device", "expected"),
    [
        ({}, 1, "cuda", True),
        ({"precision": "bf16"}, 1, "cuda", True),
        ({}, 1, "cpu", False),
        ({}, 2, "cuda", True),
        ({"compress": True}, 512, "cuda", True),
        ({}, 2, "cpu", False),
        ({"replay": False}, 1, "cuda", False),
        ({"replay": False}, 2, "cuda", False),
        ({"accumulate": 2}, 1, "cuda", False),  # a replay would overwrite the gradients of the first piece
        ({"recompute": 2}, 1, "cuda", False),
        ({"kind": "zero", "zero_stage": 1}, 1, "cuda", False),
    ],
)
def test_which_steps_are_recorded(settings, ranks, device, expected):
    assert replays(EngineSettings(**settings), ranks, device, numbers=1000) is expected


@pytest.mark.parametrize(
    ("size", "samples", "several"),
    [("64K", 128, True), ("1M", 129, False), ("16M", 64, True), ("16M", 65, False), ("256M", 1, False)],
)
def test_several_ranks_record_short_steps_alone(size, samples, several):
    """As a rank's samples of 128 x 128 go: about as many as take a GPU as long as its host."""
    numbers = numbers_of_step(architecture(4, size), samples, 128)
    assert replays(EngineSettings(), 2, "cuda", numbers) is several
    assert replays(EngineSettings(), 1, "cuda", numbers)
    assert not replays(EngineSettings(), 2, "cuda")  # nothing is known of the step


def test_the_first_line_of_a_run_tells_whether_its_steps_are_replayed():
    settings = TrainSettings(run="run", data={"path": "data"}, optim={"epochs": 1})
    for engine, told in ((SimpleNamespace(replayed=object()), "ddp, replayed, fp32"), (object(), "ddp, fp32")):
        job = Job(settings, World(0, 4), None, engine, None, None, {}, Architecture(4, 16, 4, 2), None)
        assert job.headline.endswith(f"; transform dft), 4 rank(s) of {told}")


class Waiting(nn.Module):
    """Its host looks at a number of the device within the pass, which no recording can hold."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, source, coefficients):
        assert math.isfinite(float(source.sum()))
        return self.scale * source * coefficients.sum()


def sums(module, *inputs):
    """A loss and a stand-in for the error."""
    total = module(*inputs).sum()
    return torch.stack((total, total.detach()))


def random_inputs(count, device=DEVICE):
    return torch.randn(count, 4, 4, device=device), torch.rand(count, 3, device=device)


def test_what_cannot_be_recorded_is_trained_as_it_is_and_said_once(capsys):
    """Without a GPU nothing can be; on one, not a pass that waits for it. Random numbers are drawn as ever."""
    plain = Waiting().to(DEVICE)
    replayed = Replayed(plain, sums)
    for count in (2, 2, 3):
        source, coefficients = random_inputs(count)
        numbers, norm = replayed.gradient(source, coefficients)
        assert torch.equal(numbers, sums(plain, source, coefficients))
        assert torch.allclose(plain.scale.grad, (source * coefficients.sum()).sum())
        assert torch.allclose(norm, plain.scale.grad.abs())
        plain.zero_grad()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("fmsci: a step of 2 samples cannot be recorded (")
    assert "engine.replay=false" in said[0]
    if DEVICE == "cuda":
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        torch.cuda.empty_cache()  # refused while something records


class Steep(nn.Module):
    """The root of a parameter that is 0: no number is infinite but the gradient."""

    def __init__(self):
        super().__init__()
        self.square = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.square.sqrt() * x


def test_a_loss_whose_gradient_is_not_finite_is_none():
    plain, x = Steep().to(DEVICE), torch.ones(2, 4, device=DEVICE)
    assert torch.isfinite(sums(plain, x)[0])
    numbers, norm = Replayed(plain, sums).gradient(x)
    assert math.isnan(numbers[0])
    assert numbers[1] == 0
    assert not math.isfinite(norm)


@pytest.mark.parametrize("backend", ["dft", "fft"])
def test_what_is_recorded_is_the_gradient_in_the_layout_of_the_parameters(backend):
    """A lift of its own, as without a GPU's kernels, leaves its gradient transposed."""
    torch.manual_seed(0)
    scales = Scales(1.0, {"a": 1.0, "b": 1.0, "c": 1.0})
    operator = SolutionOperator(Architecture(4, 8, 3, 2), scales, backend=backend).to(DEVICE)
    inputs = torch.randn(2, 8, 8, device=DEVICE), torch.rand(2, 3, device=DEVICE)
    sums(operator, *inputs)[0].backward()
    numbers, grads = replay.passes(operator, sums, dict(operator.named_parameters()), inputs)
    assert torch.allclose(numbers[:2], sums(operator, *inputs))
    assert torch.allclose(numbers[2], torch.cat([one.flatten() for one in grads]).norm())
    for parameter, grad in zip(operator.parameters(), grads, strict=True):
        assert grad.stride() == parameter.stride()
        assert torch.allclose(grad, parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_mistake_of_the_model_is_not_taken_for_one_of_recording():
    replayed = Replayed(nn.Bilinear(4, 3, 4).to(DEVICE), sums)
    with pytest.raises(RuntimeError, match="batch dimensions"):
        replayed.gradient(torch.randn(2, 4, device=DEVICE), torch.randn(3, 3, device=DEVICE))


def batches(steps, spoilt=()):
    """Yield full batches and short ones; ``spoilt``: steps whose batch holds what is no number."""
    generator = torch.Generator().manual_seed(3)
    for step in range(steps):
        count = 3 if step % 4 == 3 else 8
        fields = torch.randn(count, 2, 32, 32, generator=generator)
        coefficients = torch.rand(count, 3, generator=generator) + 0.5
        if step in spoilt:
            fields[0, 0] = math.nan
        yield Batch((Piece(Samples(fields.to(DEVICE), coefficients.to(DEVICE)), count),), count)


def trained(settings, optim, clip=None, spoilt=(), steps=16, backend="auto", loss="squared"):
    """Return losses and final weights of a run whose rate falls, validated between; and its engine."""
    torch.manual_seed(0)
    scales = Scales(1.0, {"a": 1.0, "b": 1.0, "c": 1.0})
    operator = SolutionOperator(Architecture(4, 16, 4, 3), scales, backend=backend).to(DEVICE)
    optimizer = build_optimizer(operator, OptimSettings(epochs=1, lr=3e-3, **optim))
    engine = build_engine(settings, operator, optimizer, World(), clip, bool(spoilt), LOSSES[loss])
    curve = []
    for step, batch in enumerate(batches(steps, spoilt)):
        curve.append(engine.step(batch, 3e-3 * 0.9**step).tolist())
        samples = batch.pieces[0].samples
        if step not in spoilt:
            curve.append([float(engine.predict(samples.source, samples.coefficients).square().mean())] * 2)
    weights = torch.cat([one.flatten() for one in engine.weights().values()])
    return torch.tensor(curve), weights, engine


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    ("precision", "how"),
    [
        ("fp32", {}),
        ("tf32", {}),
        ("bf16", {}),
        ("fp32", {"clip": 0.5}),
        ("fp32", {"spoilt": (0, 5, 7)}),  # the first step of all, a full batch, a short one
        ("bf16", {"optim": {"freeze": ["lift", "layers.1"]}, "clip": 0.5}),
        ("fp32", {"backend": "fft"}),
        ("fp32", {"loss": "relative"}),
    ],
)
def test_a_replayed_run_is_the_run_itself(precision, how):
    how = {"optim": {}, **how}
    replayed, weights, engine = trained(EngineSettings(precision=precision, device="cuda"), **how)
    plain, expected, other = trained(EngineSettings(precision=precision, device="cuda", replay=False), **how)
    assert len(engine.replayed._recordings) == replay.SHAPES
    assert other.replayed is None
    tolerance = 1e-4 if precision == "fp32" else 1e-2  # a stale gradient would be off by as much as it is
    assert torch.allclose(replayed, plain, rtol=tolerance, equal_nan=True)
    assert float((weights - expected).norm() / expected.norm()) < tolerance


@pytest.mark.gpu
@needs_gpu
def test_the_optimizer_reads_the_gradients_where_the_replay_leaves_them():
    """No copy between; the constants that its kernels read are held; a loss that lives on keeps no stream alive."""
    torch.manual_seed(0)
    scales = Scales(1.0, {"a": 1.0, "b": 1.0, "c": 1.0})
    operator = SolutionOperator(Architecture(4, 16, 4, 2), scales).cuda()
    kept = sums(operator, torch.randn(2, 16, 16, device="cuda"), torch.rand(2, 3, device="cuda"))
    replayed = Replayed(operator, sums)
    for _ in range(2):
        replayed.gradient(torch.randn(2, 16, 16, device="cuda"), torch.rand(2, 3, device="cuda"))
        (recording,) = replayed._recordings.values()
        for parameter, left in zip(operator.parameters(), recording.grads, strict=True):
            assert parameter.grad.data_ptr() == left.data_ptr()
        operator.zero_grad()
    assert recording.constants
    assert kept.requires_grad


@pytest.mark.gpu
@needs_gpu
def test_only_so_many_shapes_are_recorded():
    operator = SolutionOperator(Architecture(1, 16, 4, 2), Scales(1.0, {})).cuda()
    replayed = Replayed(operator, sums)
    for count in range(1, replay.SHAPES + 3):
        source, none = torch.randn(count, 16, 16, device="cuda"), torch.empty(count, 0, device="cuda")
        numbers, _ = replayed.gradient(source, none)
        assert torch.allclose(numbers, sums(operator, source, none), rtol=1e-4, atol=1e-5)
        operator.zero_grad()
    assert len(replayed._recordings) == replay.SHAPES
