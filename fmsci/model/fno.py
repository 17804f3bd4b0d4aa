"""The Fourier neural operator: lift, Fourier layers, head. One device, no ranks, plain arguments."""

from __future__ import annotations

from torch import Tensor, nn

from fmsci.model.head import Head
from fmsci.model.layer import FourierLayer
from fmsci.model.sizes import DEFAULT_LAYERS, Architecture


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
        self.layers = nn.ModuleList(FourierLayer(width, modes, backend, activate=index > 0) for index in range(layers))
        self.head = Head(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the predicted field, (B, c, H, W) -> (B, 1, H, W). Raises UserError where the grid is too small."""
        z = self.lift(x.movedim(1, -1))
        for layer in self.layers:
            z = layer(z)
        u: Tensor = self.head(z)
        return u.movedim(-1, 1)
