"""The Fourier neural operator: lift, Fourier layers, head. One device, no ranks, plain arguments."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu

from fmsci.model.sizes import DEFAULT_LAYERS, Architecture
from fmsci.model.spectral import SpectralConv


class FourierLayer(nn.Module):
    """v -> S(v) + v A + b, with S the spectral convolution and A a d x d matrix at each point; (B, H, W, d)."""

    def __init__(self, width: int, modes: int, backend: str) -> None:
        super().__init__()
        self.spectral = SpectralConv(width, modes, backend)
        self.pointwise = nn.Linear(width, width)

    def forward(self, v: Tensor) -> Tensor:
        """Return the layer's output, (B, H, W, d) -> (B, H, W, d)."""
        out: Tensor = self.spectral(v) + self.pointwise(v)
        return out


class FNO(nn.Module):
    """u = head(L4(gelu(L3(gelu(L2(gelu(L1(lift(x)))))))), head = Linear(d, 2d), gelu, Linear(2d, 1).

    Input (B, c, H, W), output (B, 1, H, W), any grid with at least 2m points along each axis; periodic, so neither
    padding nor positions. Inside, channels are last: lift, pointwise and head are then plain matrix products.
    Source: Li et al., arXiv 2010.08895; sizes and details as arXiv 2306.00258.
    """

    def __init__(
        self, in_channels: int, width: int, modes: int, layers: int = DEFAULT_LAYERS, backend: str = "dft"
    ) -> None:
        super().__init__()
        self.architecture = Architecture(in_channels, width, modes, layers)
        self.lift = nn.Linear(in_channels, width)
        self.layers = nn.ModuleList(FourierLayer(width, modes, backend) for _ in range(layers))
        self.head_in = nn.Linear(width, 2 * width)
        self.head_out = nn.Linear(2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the predicted field, (B, c, H, W) -> (B, 1, H, W). Raises UserError where the grid is too small."""
        v = self.lift(x.movedim(1, -1))
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            v = layer(v)
            if index < last:
                v = gelu(v)
        u: Tensor = self.head_out(gelu(self.head_in(v)))
        return u.movedim(-1, 1)
