"""The Fourier layer on a GPU: a few kernels, each of which passes over a field once, and their gradient.

What goes over whole fields are the kernels of :mod:`fmsci.model.kernels`; between them, along y, the transform is one
matrix product of half a field or less: with P = (cos, sin along x) v, rows (y, cos | sin),

    V = M P,   M = (  cos ky y, -sin ky y )  / sqrt(H),     and back   Q = M^T U
                   ( -sin ky y, -cos ky y )

so a spectrum comes out with its real and imaginary rows, +ky and -ky, and nothing has to be put in order. Weights are
read as they are kept (float32) and made bfloat16 on the way; so are their gradients written.

Numbers type: that of the fields, float32 or bfloat16. Products of float32 are tf32 where the process allows it
(engine.precision=tf32), else three of tf32 or six of bfloat16 each, as exact as float32 (docs/fourier_layer.md).
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from fmsci.model.constants import constant
from fmsci.model.precision import precision
from fmsci.model.sizes import WIDEST
from fmsci.model.tiles import cdiv, tiles
from fmsci.model.transform import angles
from fmsci.stages import named


def serves(values: Tensor, width: int, dtype: torch.dtype | None = None) -> bool:
    """Tell whether the kernels can take fields like ``values``: on an NVIDIA GPU with Triton, float32 or bfloat16.

    ``dtype``: the number type that they will have, where it is not their own.
    """
    known = (dtype or values.dtype) in {torch.float32, torch.bfloat16}
    return values.is_cuda and known and width <= WIDEST and _can_start()


@lru_cache(maxsize=1)
def _can_start() -> bool:
    return find_spec("triton") is not None and torch.version.hip is None  # AMD's knows other kinds of product


@constant
def waves(
    height: int, width: int, modes: int, dtype: torch.dtype, device: torch.device, products: str
) -> tuple[Tensor, dict[bool, tuple[Tensor, Tensor]]]:
    """Return M (4m, 2H), and by ``twice`` the rows along x (2m, W) and their transpose.

    ``twice`` counts every kx > 0 twice, for its conjugate partner; see :class:`fmsci.model.transform.Transform`.
    ``products``: see :func:`fmsci.model.precision.precision`; for tf32 the waves are rounded to it.
    """
    as_read = nearest_tf32 if (dtype, products) == (torch.float32, "tf32") else torch.clone
    y = angles(modes + 1, height)
    cos = torch.cat((y[:modes].cos(), y[1:].cos())) / math.sqrt(height)
    sin = torch.cat((y[:modes].sin(), -y[1:].sin())) / math.sqrt(height)
    along_y = torch.cat((torch.stack((cos, -sin), 2), torch.stack((-sin, -cos), 2))).flatten(1)
    x = angles(modes, width)
    partners = torch.full((modes, 1), 2.0, dtype=torch.float64)
    partners[0] = 1.0
    along_x = {}
    for twice, factor in ((False, torch.ones_like(partners)), (True, partners)):
        rows = (torch.cat((factor * x.cos(), factor * x.sin())) / math.sqrt(width)).to(dtype)
        rows = as_read(rows).to(device)
        along_x[twice] = rows.contiguous(), rows.T.contiguous()
    return as_read(along_y.to(dtype)).to(device).contiguous(), along_x


def nearest_tf32(values: Tensor) -> Tensor:
    """Return the nearest numbers with tf32's 10 bits: a matrix unit cuts the others off, which makes all smaller."""
    return ((values.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class _FourierLayer(torch.autograd.Function):
    """S(v) + v A^T + b with v = gelu(z), as :class:`fmsci.model.layer.FourierLayer`; weights in float32."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, pointwise: Tensor, bias: Tensor, activate: bool) -> Tensor:
        z = z.contiguous()
        along_y, along_x = waves(z.shape[1], z.shape[2], weight.shape[2], z.dtype, z.device, precision())
        spectrum = to_spectrum(z, along_x[False][0], along_y, activate)
        q = from_spectrum(mix(spectrum, weight, adjoint=False), along_y)
        out = synthesise(q, along_x[True][1], z, pointwise, bias, activate)
        ctx.save_for_backward(z, weight, pointwise, spectrum if ctx.needs_input_grad[1] else None)
        ctx.activate = activate
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, pointwise, spectrum = ctx.saved_tensors
        grad = grad.contiguous()
        of_z, of_weight, of_pointwise, of_bias, _ = ctx.needs_input_grad
        grad_z = grad_weight = grad_bias = q = None
        along_y, along_x = waves(z.shape[1], z.shape[2], weight.shape[2], z.dtype, z.device, precision())
        if of_z or of_weight or of_bias:
            grad_mixed = to_spectrum(grad, along_x[True][0], along_y, False)
            if of_bias:
                grad_bias = sum_of_means(grad_mixed, math.sqrt(z.shape[1] * z.shape[2])).to(weight.dtype)
            if of_weight:
                grad_weight = mix_grad(spectrum, grad_mixed, weight)
            if of_z:
                q = from_spectrum(mix(grad_mixed, weight, adjoint=True), along_y)
        grad_z, grad_pointwise = _descend(q, along_x[False][1], grad, z, pointwise, ctx.activate, of_pointwise)
        return grad_z, grad_weight, grad_pointwise, grad_bias, None


@named("transform")
def to_spectrum(z: Tensor, rows: Tensor, along_y: Tensor, activate: bool) -> Tensor:
    """Return the spectrum (B, 2, 2 m^2, C) of fields (B, H, W, C)."""
    from fmsci.model.kernels import field, start

    batch, height, width, channels = z.shape
    products = z.new_empty(batch, 2 * height, len(rows) // 2 * channels)
    count = batch * height * channels
    start.start(
        field.analyse,
        lambda tile: (cdiv(count, tile["BG"]), cdiv(len(rows), tile["BJ"])),
        (z, rows, products, count, width, len(rows)),
        z.dtype,
        {"BJ": len(rows), "BX": width},
        C=channels,
        ACTIVATE=activate,
        PRECISION=precision(),
    )
    return torch.bmm(along_y.expand(batch, -1, -1), products).view(batch, 2, -1, channels)


@named("inverse")
def from_spectrum(spectrum: Tensor, along_y: Tensor) -> Tensor:
    """Return the products with the waves along x that make up a spectrum: (B, 2H, m C)."""
    return torch.bmm(along_y.T.expand(len(spectrum), -1, -1), spectrum.view(len(spectrum), len(along_y), -1))


def sum_of_means(spectrum: Tensor, root: float) -> Tensor:
    """Return the sum over all points, ``root`` squared of them a sample, of the fields of a spectrum, (C)."""
    return spectrum[:, 0, 0].sum(0, dtype=torch.float32) * root


@named("mix")
def mix(v: Tensor, weight: Tensor, adjoint: bool) -> Tensor:
    """Return each wavenumber's product, (B, 2, K, C)."""
    from fmsci.model.kernels import spectrum, start

    batch, _, count, channels = v.shape
    out = torch.empty_like(v)
    start.start(
        spectrum.mix,
        lambda tile: (count * cdiv(batch, tile["BB"]) * cdiv(channels, tile["BO"]),),
        (v, weight.contiguous(), out, batch, count),
        v.dtype,
        {"BB": batch, "BI": channels, "BO": channels},
        C=channels,
        ADJOINT=adjoint,
        PRECISION=precision(),
    )
    return out


@named("mix")
def mix_grad(v: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the weights, in their shape and number type."""
    from fmsci.model.kernels import spectrum, start

    batch, _, count, channels = v.shape
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    start.start(
        spectrum.mix_grad,
        lambda tile: (count * cdiv(channels, tile["BI"]) * cdiv(channels, tile["BO"]),),
        (v, grad, out, batch, count),
        v.dtype,
        {"BB": batch, "BI": channels, "BO": channels},
        C=channels,
        PRECISION=precision(),
    )
    return out


@named("inverse")
def synthesise(q: Tensor, columns: Tensor, z: Tensor, pointwise: Tensor, bias: Tensor, activate: bool) -> Tensor:
    """Return the layer's output, (B, H, W, C); pointwise: (C, channels of z)."""
    from fmsci.model.kernels import field, start

    batch, height, width, given = z.shape
    channels = len(bias)
    out = z.new_empty(batch, height, width, channels)
    start.start(
        field.synthesise,
        lambda tile: (cdiv(batch * height, tile["ROWS"]), cdiv(width, tile["BX"])),
        (q, columns, z, pointwise.contiguous(), bias, out, batch * height, width),
        z.dtype,
        {"BX": width, "BJ": columns.shape[1], "BC": channels, "BCI": given},
        J=columns.shape[1],
        C=channels,
        CI=given,
        ACTIVATE=activate,
        PRECISION=precision(),
    )
    return out


@named("inverse")
def _descend(
    q: Tensor | None, columns: Tensor, grad: Tensor, z: Tensor, pointwise: Tensor, activate: bool, of_pointwise: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of z, where there is a ``q``, and of the pointwise matrix, where it is wanted."""
    out = None if q is None else torch.empty_like(z)
    given, parts = (q, columns, grad, z, pointwise.contiguous(), out), None
    for called, of_z, of_a in _passes(q is not None, of_pointwise, z.shape[-1], z.dtype):
        parts = _start_descend(called, given, activate, of_z, of_a)
    return out, None if parts is None else parts.sum(0).to(pointwise.dtype)


def _start_descend(called: str, given: tuple[Any, ...], activate: bool, of_z: bool, of_a: bool) -> Tensor | None:
    """Return each program's part of the gradient of the pointwise matrix, where it is wanted."""
    from fmsci.model.kernels import field, start

    columns, z = given[1], given[3]
    batch, height, width, channels = z.shape
    programs = min(batch * height, tiles(called, channels, z.dtype, precision())["programs"])
    parts = z.new_empty(programs, channels, channels, dtype=torch.float32) if of_a else None
    start.start(
        field.descend,
        lambda tile: (programs,),
        (*given, parts, batch * height, width),
        z.dtype,
        {"BX": width, "BJ": columns.shape[1], "BC": channels},
        called,
        J=columns.shape[1],
        C=channels,
        ACTIVATE=activate,
        GRAD_Z=of_z,
        GRAD_A=of_a,
        PRECISION=precision(),
    )
    return parts


def _passes(of_z: bool, of_a: bool, channels: int, dtype: torch.dtype) -> list[tuple[str, bool, bool]]:
    """Return the passes of the kernel ``descend``, by the name of their tiles, and which gradients each one makes.

    One makes both, but in wide layers whose numbers are cut into parts: those leave no room for it on the chip.
    """
    if channels <= WIDEST // 2 or dtype != torch.float32 or precision() == "tf32":
        return [("descend", of_z, of_a)] if of_z or of_a else []
    return [("descend_z", True, False)] * of_z + [("descend_a", False, True)] * of_a


def fourier_layer(z: Tensor, weight: Tensor, pointwise: Tensor, bias: Tensor, activate: bool) -> Tensor:
    """Return a Fourier layer's output, (B, H, W, C) -> the same."""
    out: Tensor = _FourierLayer.apply(z, weight, pointwise, bias, activate)  # type: ignore[no-untyped-call]
    return out
