"""The Fourier neural operator: exact sizes, every part in use, any grid, and a problem that it must learn."""

import pytest
import torch

from fmsci.errors import UserError
from fmsci.model.fno import FNO
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture, architecture


@pytest.mark.parametrize(
    ("size", "parameters"), [("64K", 67_281), ("1M", 1_050_321), ("16M", 16_783_777), ("256M", 268_535_425)]
)
def test_sizes_have_the_papers_exact_parameter_counts(size, parameters):
    chosen = architecture(4, size)
    assert chosen.num_parameters == parameters
    with torch.device("meta"):
        model = FNO(**chosen.as_dict())
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert not any(p.is_complex() for p in model.parameters())


@pytest.mark.parametrize(("channels", "width", "modes", "layers"), [(3, 5, 2, 1), (7, 8, 6, 3), (1, 1, 1, 5)])
def test_the_closed_form_counts_any_architecture(channels, width, modes, layers):
    chosen = Architecture(channels, width, modes, layers)
    assert sum(p.numel() for p in FNO(**chosen.as_dict()).parameters()) == chosen.num_parameters


def test_width_and_modes_override_the_dial():
    assert architecture(4, "16M", modes=8) == Architecture(4, 32, 8)
    assert architecture(4) == architecture(4, "1M")


def test_unknown_size_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown model size '16'.*did you mean '16M'.*64K, 1M, 16M, 256M"):
        architecture(4, "16")


def small(seed=0):
    torch.manual_seed(seed)
    return FNO(4, width=6, modes=3)


@pytest.mark.parametrize("more", [{"width": 2**53}, {"modes": 2**40}, {"layers": 2**50}])
def test_a_model_that_nothing_can_count_is_a_sentence(more):
    with pytest.raises(UserError, match=r"^a model of width \d+ with \d+ modes and \d+ layers has \de\+\d+ parameters"):
        Architecture(**{"in_channels": 4, "width": 8, "modes": 8, "layers": 4} | more)


def test_every_parameter_has_a_gradient():
    model = small()
    model(torch.randn(2, 4, 12, 10)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_changing_any_block_changes_the_output():
    model, x = small(), torch.randn(2, 4, 12, 12)
    with torch.no_grad():
        before = model(x)
        for name, parameter in model.named_parameters():
            kept = parameter.clone()
            parameter.add_(0.05 * torch.randn_like(parameter))
            assert float((model(x) - before).abs().max()) > 1e-6, name
            parameter.copy_(kept)
        assert torch.equal(model(x), before)


@pytest.mark.parametrize("shape", [(12, 12), (13, 17), (6, 40), (64, 64)])
def test_any_grid_is_taken_and_the_output_is_one_field(shape):
    assert small()(torch.randn(3, 4, *shape)).shape == (3, 1, *shape)


def test_a_smooth_input_has_the_same_output_on_a_finer_grid():
    """Discretisation invariance: the operator acts on functions, so samples of one function agree at shared points."""
    model = small().double()

    def sampled(n):
        y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n,) * 2, indexing="ij")
        return torch.stack([torch.sin(2 * torch.pi * k * x) * torch.cos(2 * torch.pi * y) for k in (0, 1, 2, 1)])[None]

    with torch.no_grad():
        # Orthonormal transforms scale with the number of points in both directions, which cancels.
        coarse, fine = model(sampled(64)), model(sampled(128))
    assert torch.allclose(fine[..., ::2, ::2], coarse, atol=1e-8)


def test_inputs_that_have_the_same_solution_give_the_same_channels():
    scales = Scales(0.1, {"k11": 0.02, "k22": 0.03, "k12": 0.01})
    operator = SolutionOperator(Architecture(4, 4, 2), scales).double()
    f, k = torch.randn(3, 8, 8, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64)
    channels = operator.channels(f, k)
    assert torch.allclose(operator.channels(10 * f, 10 * k), channels)
    assert channels.shape == (3, 4, 8, 8)
    assert torch.allclose(channels[:, 0].square().mean(dim=(1, 2)).sqrt(), torch.full((3,), 0.1, dtype=torch.float64))
    ratio = f.square().mean(dim=(1, 2)).sqrt() / 0.1
    expected = k[:, 1] / ratio / 0.03
    assert torch.allclose(channels[:, 2], expected[:, None, None].expand(-1, 8, 8).to(channels))


def test_a_zero_source_gives_a_finite_answer():
    operator = SolutionOperator(Architecture(2, 4, 2), Scales(0.1, {"k": 1.0}))
    assert torch.isfinite(operator(torch.zeros(1, 8, 8), torch.ones(1, 1))).all()


def test_it_learns_a_manufactured_operator_at_64_and_applies_it_at_128():
    """u = the source moved by a quarter period and halved: an operator that only working Fourier layers can learn."""
    torch.manual_seed(0)
    model = FNO(1, width=8, modes=4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def batch(count, n):
        spectrum = torch.zeros(count, n, n // 2 + 1, dtype=torch.complex64)
        spectrum[:, :3, :3] = torch.randn(count, 3, 3, dtype=torch.complex64) / 4
        f = torch.fft.irfft2(spectrum, norm="forward")
        return f[:, None], 0.5 * f.roll(n // 4, dims=2)[:, None]

    for _ in range(200):
        x, u = batch(6, 64)
        loss = (model(x) - u).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.requires_grad_(False)
    for n in (64, 128):
        x, u = batch(16, n)
        assert float((model(x) - u).norm() / u.norm()) < 0.15, n
