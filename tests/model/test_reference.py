"""The paper's code's weights: a model written as there gives the same outputs."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fmsci.errors import UserError
from fmsci.model import FNO, from_reference, to_reference


class Spectral(nn.Module):
    """Channels first, complex products, ky = 0..m-1 in one tensor and -m..-1 in another."""

    def __init__(self, width, modes):
        super().__init__()
        self.weights1 = nn.Parameter(torch.rand(width, width, modes, modes, 2))
        self.weights2 = nn.Parameter(torch.rand(width, width, modes, modes, 2))

    def forward(self, x):
        m = self.weights1.shape[2]
        x_hat = torch.fft.rfft2(x, norm="ortho")
        out = torch.zeros_like(x_hat)
        for rows, weight in ((slice(0, m), self.weights1), (slice(-m, None), self.weights2)):
            out[:, :, rows, :m] = torch.einsum("bixy,ioxy->boxy", x_hat[:, :, rows, :m], torch.view_as_complex(weight))
        return torch.fft.irfft2(out, s=x.shape[-2:], norm="ortho")


class Plain(nn.Module):
    """The operator as the paper's code names its parts."""

    def __init__(self, channels, width, modes, layers):
        super().__init__()
        self.fc0 = nn.Linear(channels, width)
        self.sp_convs = nn.ModuleList(Spectral(width, modes) for _ in range(layers))
        self.ws = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, 1)

    def forward(self, x):
        batch, _, height, width = x.shape
        x = self.fc0(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        for index, (spectral, pointwise) in enumerate(zip(self.sp_convs, self.ws, strict=True)):
            x = spectral(x) + pointwise(x.flatten(2)).view(batch, -1, height, width)
            if index < len(self.ws) - 1:
                x = functional.gelu(x)
        return self.fc2(functional.gelu(self.fc1(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return Plain(4, 6, 5, 3)


def test_outputs_are_equal(plain):
    x = torch.randn(2, 4, 12, 10)
    expected = plain(x)
    for prefix in ("", "module."):  # as saved from under DistributedDataParallel
        model = from_reference({prefix + name: tensor for name, tensor in plain.state_dict().items()})
        assert float((model(x) - expected).detach().norm() / expected.detach().norm()) < 1e-5


def test_back_to_the_paper_and_again(plain):
    state = plain.state_dict()
    returned = to_reference(from_reference(state))
    assert returned.keys() == state.keys()
    assert all(torch.equal(returned[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("broken", ["fc0.weight", "sp_convs.1.weights2", "ws.2.bias"])
def test_a_missing_part_is_a_sentence(plain, broken):
    state = plain.state_dict()
    del state[broken]
    with pytest.raises(UserError, match=f"no weights of the paper's Fourier neural operator.*{broken}"):
        from_reference(state)


def test_a_part_too_many_or_of_another_shape_is_a_sentence(plain):
    with pytest.raises(UserError, match=r"belong to no part of the paper's model: fc3\.weight"):
        from_reference({**plain.state_dict(), "fc3.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="no weights of the paper's"):
        from_reference({**plain.state_dict(), "fc2.weight": torch.zeros(1, 3)})
    assert isinstance(from_reference(plain.state_dict()), FNO)
