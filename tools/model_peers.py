"""Peers of the model, for tools/model_figures.py: a plain FNO, and the one of the `neuraloperator` package."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fmsci.model.fno import FNO
from fmsci.model.sizes import SIZES


class PlainSpectral(nn.Module):
    """Two corners of the spectrum, a complex matrix for each wavenumber, zeros elsewhere."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        shape = (width, width, modes, modes, 2)
        self.upper, self.lower = (nn.Parameter(torch.rand(shape) / width**2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution, (B, C, H, W) -> (B, C, H, W)."""
        m = self.modes
        x_hat = torch.fft.rfft2(x.float(), norm="ortho")  # there is no FFT of bfloat16
        out = torch.zeros_like(x_hat)
        for rows, weight in ((slice(0, m), self.upper), (slice(-m, None), self.lower)):
            out[:, :, rows, :m] = torch.einsum("bixy,ioxy->boxy", x_hat[:, :, rows, :m], torch.view_as_complex(weight))
        u: Tensor = torch.fft.irfft2(out, s=x.shape[-2:], norm="ortho")
        return u


class PlainFNO(nn.Module):
    """The operator of the same sizes, written straight down, channels first."""

    def __init__(self, channels: int, width: int, modes: int, layers: int = 4) -> None:
        super().__init__()
        self.lift = nn.Linear(channels, width)
        self.spectral = nn.ModuleList(PlainSpectral(width, modes) for _ in range(layers))
        self.pointwise = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the field, (B, c, H, W) -> (B, 1, H, W)."""
        batch, _, height, width = x.shape
        x = self.lift(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        for index, (spectral, pointwise) in enumerate(zip(self.spectral, self.pointwise, strict=True)):
            x = spectral(x) + pointwise(x.reshape(batch, -1, height * width)).view(batch, -1, height, width)
            if index < len(self.spectral) - 1:
                x = functional.gelu(x)
        out: Tensor = self.outer(functional.gelu(self.inner(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return out


def build(candidate: str, size: str) -> nn.Module:
    """Return a candidate's model."""
    width, modes = SIZES[size]
    if candidate == "plain":
        return PlainFNO(4, width, modes)
    if candidate == "neuralop":
        import neuralop.models

        model: nn.Module = neuralop.models.FNO(
            n_modes=(2 * modes, 2 * modes),
            in_channels=4,
            out_channels=1,
            hidden_channels=width,
            lifting_channel_ratio=1,
            projection_channel_ratio=2,
            positional_embedding=None,
            use_channel_mlp=False,
        )
        return model
    return FNO(4, width, modes)
