"""The Fourier layer as one step of differentiation: few passes over memory, one saved field a layer.

The layer takes what stands BEFORE the activation of the layer below, z, and applies the activation itself:

    v = gelu(z),    out = S(v) + v A^T + b

So z is the only field that the backward pass needs; v is made again from it, a few rows at a time, where it still fits
into a core's cache. The bias is added to the mean wavenumber of S(v), which costs nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fmsci.model import fused, fused_first
from fmsci.model.first_layer import lifted_layer
from fmsci.model.mixing import gradients_of_mixing, mix
from fmsci.model.pieces import add_product, count_at_once, pieces, points_first, samples_first
from fmsci.model.pointwise import activated_product, layer_gradient
from fmsci.model.precision import as_it_is, compute_dtype
from fmsci.model.sizes import check_grid
from fmsci.model.spectral import convolve_dft, convolve_fft, initial_weight
from fmsci.model.transform import transform
from fmsci.stages import stage


class FourierLayer(nn.Module):
    """gelu(z) -> S + A + b at each point, (B, H, W, d) -> (B, H, W, d); the first layer has no activation before it.

    ``spectral``: (2, 2m, m, d, d), see :mod:`fmsci.model.spectral`; ``pointwise``: (d, d) and ``bias``: (d,), as those
    of ``nn.Linear``. The parameters belong to this module itself, so that whoever gathers them does it before its step.
    """

    def __init__(self, width: int, modes: int, backend: str, activate: bool, initial: str = "paper") -> None:
        super().__init__()
        self.modes, self.backend, self.activate = modes, backend, activate
        self.spectral = nn.Parameter(initial_weight(width, modes, initial))
        linear = nn.Linear(width, width)
        self.pointwise, self.bias = linear.weight, linear.bias

    def takes_lift(self, x: Tensor) -> bool:
        """Tell whether the lift is this layer's part: it is faster (:mod:`fmsci.model.first_layer`).

        On a GPU in its kernels only, which make no gradient of x.
        """
        by_hand = self.backend == "dft" and not torch.compiler.is_compiling()
        return by_hand and not self.activate and (x.device.type == "cpu" or self._lifts_in_kernels(x))

    def _lifts_in_kernels(self, x: Tensor) -> bool:
        widest = max(x.shape[1], len(self.bias))
        return not x.requires_grad and fused.serves(x, widest, compute_dtype(x))

    def forward(self, z: Tensor, *lift: Tensor) -> Tensor:
        """Return the layer's output before the next activation. Raises UserError where the grid is too small.

        With ``lift``, its weight (d, c) and bias, z is (B, c, H, W) and not lifted yet.
        """
        given = (self.spectral, self.pointwise, self.bias)
        dtype = compute_dtype(z)
        if lift:
            check_grid(self.modes, *z.shape[2:])
            in_kernels = self._lifts_in_kernels(z)
            with as_it_is(z):
                if in_kernels:
                    return fused_first.lifted_layer(z, *lift, *given, dtype)
                return lifted_layer(*(one.to(dtype) for one in (z, *lift, *given)))
        check_grid(self.modes, z.shape[1], z.shape[2])
        by_hand = self.backend == "dft" and not torch.compiler.is_compiling()
        with as_it_is(z):
            z = z.to(dtype)
            if by_hand and fused.serves(z, len(self.bias)):
                return fused.fourier_layer(z, *given, self.activate)
            weights = [one.to(dtype) for one in given]
            if by_hand:
                out: Tensor = _Fused.apply(points_first(z), *weights, self.activate)  # type: ignore[no-untyped-call]
                return samples_first(out)
            return self._composed(z, *weights)

    def _composed(self, z: Tensor, spectral: Tensor, pointwise: Tensor, bias: Tensor) -> Tensor:
        """Return the same from operations that a compiler can see through."""
        v = functional.gelu(z) if self.activate else z
        convolve = convolve_dft if self.backend == "dft" else convolve_fft
        return convolve(v, spectral) + functional.linear(v, pointwise, bias)


class _Fused(torch.autograd.Function):
    """The layer and its gradient, of fields (H, W, B, d)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, pointwise: Tensor, bias: Tensor, activate: bool) -> Tensor:
        height, width, batch, channels = z.shape
        waves = transform(height, width, weight.shape[2], z.dtype, z.device)
        at_once = count_at_once(z, z[0].numel() * z.element_size())
        out = torch.empty_like(z)
        products = waves.room(z, batch * channels)
        columns = pointwise.t().contiguous()
        points, targets = z.view(-1, channels), out.view(-1, channels)
        for part, target, *room in pieces(at_once, height, points, targets, *products):
            with stage("pointwise"):
                if activate:
                    v = activated_product(part, columns, target)
                else:
                    v = part
                    torch.mm(v, columns, out=target)
            waves.analyse(v, room, twice=False)
        spectrum = waves.collect(products, batch)
        mixed = mix(spectrum, weight)
        mixed[0, :batch] += bias * math.sqrt(height * width)
        waves.spread(mixed, products)
        for target, *found in pieces(at_once, height, targets, *products, back=True):
            waves.synthesise(found, target, twice=True, add=True)
        ctx.save_for_backward(z, weight, pointwise, spectrum)
        ctx.activate = activate
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, pointwise, spectrum = ctx.saved_tensors
        grad = grad.contiguous()
        height, width, batch, channels = z.shape
        waves = transform(height, width, weight.shape[2], z.dtype, z.device)
        at_once = count_at_once(z, z[0].numel() * z.element_size())
        products = waves.room(grad, batch * channels)
        above = grad.view(-1, channels)
        for part, *room in pieces(at_once, height, above, *products):
            waves.analyse(part, room, twice=True)
        grad_mixed = waves.collect(products, batch)
        grad_bias = grad_mixed[0, :batch].sum(0) * math.sqrt(height * width)
        back, grad_weight = gradients_of_mixing(spectrum, grad_mixed, weight)
        waves.spread(back, products)
        grad_z, pointwise = torch.empty_like(z), pointwise.contiguous()
        grad_pointwise = torch.zeros_like(pointwise, dtype=torch.promote_types(z.dtype, torch.float32))
        fields = (above, z.view(-1, channels), grad_z.view(-1, channels))
        for points, part, target, *found in pieces(at_once, height, *fields, *products, back=True):
            waves.synthesise(found, target, twice=False, add=False)
            with stage("pointwise"):
                if ctx.activate:
                    layer_gradient(points, part, pointwise, target, grad_pointwise)
                else:
                    add_product(grad_pointwise, points.t(), part)
                    target.addmm_(points, pointwise)
        return grad_z, grad_weight, grad_pointwise.to(z.dtype), grad_bias, None
