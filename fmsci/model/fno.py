"""The Fourier neural operator: lift, Fourier layers, head. One device, no ranks, plain arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fmsci.model.head import Head
from fmsci.model.layer import FourierLayer
from fmsci.model.sizes import DEFAULT_LAYERS, Architecture
from fmsci.stages import stage


class Lift(nn.Linear):
    """Linear(c, d) at each point, from channels first to channels last: (B, c, H, W) -> (B, H, W, d)."""

    def forward(self, x: Tensor, parts: bool = False) -> Any:
        """Return the lifted field; with ``parts`` what it is made of: x, weight and bias, for the layer above.

        They are copies: whoever gathers a module's parameters, as ZeRO 3 does, has them for the time of its step only.
        """
        if parts:
            return x, self.weight.clone(), self.bias.clone()
        # A product per sample: c is far too small for one tall product to be fast.
        columns = x.flatten(2).transpose(1, 2)
        lifted = torch.baddbmm(self.bias, columns, self.weight.t().expand(x.shape[0], -1, -1))
        return lifted.view(x.shape[0], *x.shape[2:], -1)


class FNO(nn.Module):
    """u = head(L4(gelu(L3(gelu(L2(gelu(L1(lift(x)))))))), head = Linear(d, 2d), gelu, Linear(2d, 1).

    Input (B, c, H, W), output (B, 1, H, W), any grid with at least 2m points along each axis; periodic, so neither
    padding nor positions. Inside, channels are last: lift, pointwise and head are then plain matrix products.

    ``backend``: dft, fft or auto (the faster, ``Architecture.transform``). ``initial``: see
    :func:`fmsci.model.spectral.initial_weight`. ``recompute`` k > 0 keeps the input of every k-th layer only and
    computes those between again in the backward pass: less memory, more time, the same numbers.

    Source: Li et al., arXiv 2010.08895; sizes and details as arXiv 2306.00258.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        modes: int,
        layers: int = DEFAULT_LAYERS,
        backend: str = "auto",
        initial: str = "paper",
        recompute: int = 0,
    ) -> None:
        super().__init__()
        self.architecture = Architecture(in_channels, width, modes, layers)
        self.recompute = recompute
        backend = self.architecture.choose_transform(backend)
        self.lift = Lift(in_channels, width)
        self.layers = nn.ModuleList(
            FourierLayer(width, modes, backend, activate=index > 0, initial=initial) for index in range(layers)
        )
        self.head = Head(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the predicted field, (B, c, H, W) -> (B, 1, H, W). Raises UserError where the grid is too small."""
        layers = list(self.layers)
        with stage("lift"):
            given = self.lift(x, parts=True) if layers[0].takes_lift(x) else (self.lift(x),)  # type: ignore[operator]
        if self.recompute and torch.is_grad_enabled():
            for first in range(0, len(layers), self.recompute):
                some = layers[first : first + self.recompute]
                # No layer draws numbers.
                given = (checkpoint(_through, some, *given, use_reentrant=False, preserve_rng_state=False),)
        else:
            given = (_through(layers, *given),)
        with stage("head"):
            u: Tensor = self.head(*given)
        return u.movedim(-1, 1)


def _through(layers: list[nn.Module], *given: Tensor) -> Tensor:
    """Return what comes out of layers, the first of which may do the lift."""
    z: Tensor = layers[0](*given)
    for layer in layers[1:]:
        z = layer(z)
    return z
