"""Triton kernels of the head on a GPU: u = gelu(v H^T + h) . o + q; the wide field inside never leaves the chip.

v: (points, C); H: (N, C), N = 2C; o: (1, N); u, grad: (points, 1) float32. See :mod:`fmsci.model.kernels`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fmsci.model.kernels.activation import gelu, gelu_grad


@triton.jit
def head(
    v,
    inner,
    inner_bias,
    outer,
    outer_bias,
    out,
    points,
    N,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    """The field, one pass over v."""
    p = tl.program_id(0).to(tl.int64) * BP + tl.arange(0, BP)
    c = tl.arange(0, BC)
    tile = tl.load(v + p[:, None] * C + c[None, :], mask=(p < points)[:, None] & (c < C)[None, :], other=0.0)
    by_row = tl.zeros((BP, BN), tl.float32)  # added up across a row once, at the end
    for first in range(0, N, BN):
        n = first + tl.arange(0, BN)
        there = (n < N)[None, :] & (c < C)[:, None]
        weight = tl.load(inner + n[None, :] * C + c[:, None], mask=there, other=0.0).to(tile.dtype)
        h = tl.dot(tile, weight, input_precision=PRECISION)
        h += tl.load(inner_bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
        o = tl.load(outer + n, mask=n < N, other=0.0).to(tl.float32)
        by_row += gelu(h) * o[None, :]
    total = tl.sum(by_row, 1) + tl.load(outer_bias).to(tl.float32)
    tl.store(out + p, total, mask=p < points)


@triton.jit
def head_grad_v(
    v,
    grad,
    inner,
    inner_bias,
    outer,
    out,
    points,
    N,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradient of v; what was inside is computed again."""
    p = tl.program_id(0).to(tl.int64) * BP + tl.arange(0, BP)
    c = tl.arange(0, BC)
    inside = (p < points)[:, None] & (c < C)[None, :]
    tile = tl.load(v + p[:, None] * C + c[None, :], mask=inside, other=0.0)
    g = tl.load(grad + p, mask=p < points, other=0.0).to(tl.float32)
    total = tl.zeros((BP, BC), tl.float32)
    for first in range(0, N, BN):
        n = first + tl.arange(0, BN)
        there = (n < N)[:, None] & (c < C)[None, :]
        weight = tl.load(inner + n[:, None] * C + c[None, :], mask=there, other=0.0).to(tile.dtype)
        h = tl.dot(tile, tl.trans(weight), input_precision=PRECISION)
        h += tl.load(inner_bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
        o = tl.load(outer + n, mask=n < N, other=0.0).to(tl.float32)
        grad_h = (g[:, None] * o[None, :] * gelu_grad(h)).to(tile.dtype)
        total = tl.dot(grad_h, weight, total, input_precision=PRECISION)
    tl.store(out + p[:, None] * C + c[None, :], total.to(tile.dtype), mask=inside)


@triton.jit
def head_grad_weights(
    v,
    grad,
    inner,
    inner_bias,
    outer,
    inner_parts,
    bias_parts,
    outer_parts,
    points,
    N,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    """This program's parts of the gradients of H (programs, N, C), h and o (programs, N), for some of N."""
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    c = tl.arange(0, BC)
    there = (n < N)[:, None] & (c < C)[None, :]
    weight = tl.load(inner + n[:, None] * C + c[None, :], mask=there, other=0.0).to(v.dtype.element_ty)
    b = tl.load(inner_bias + n, mask=n < N, other=0.0).to(tl.float32)
    o = tl.load(outer + n, mask=n < N, other=0.0).to(tl.float32)
    inner_sum = tl.zeros((BN, BC), tl.float32)
    bias_sum, outer_sum = tl.zeros((BP, BN), tl.float32), tl.zeros((BP, BN), tl.float32)  # over points at the end
    for turn in range(tl.cdiv(points, BP * tl.num_programs(0))):
        block = tl.program_id(0).to(tl.int64) + turn * tl.num_programs(0)
        p = block * BP + tl.arange(0, BP)
        tile = tl.load(v + p[:, None] * C + c[None, :], mask=(p < points)[:, None] & (c < C)[None, :], other=0.0)
        g = tl.load(grad + p, mask=p < points, other=0.0).to(tl.float32)
        h = tl.dot(tile, tl.trans(weight), input_precision=PRECISION) + b[None, :]
        outer_sum += g[:, None] * gelu(h)
        grad_h = g[:, None] * o[None, :] * gelu_grad(h)
        bias_sum += grad_h
        inner_sum = tl.dot(tl.trans(grad_h.to(tile.dtype)), tile, inner_sum, input_precision=PRECISION)
    place = tl.program_id(0) * N + n
    tl.store(inner_parts + place[:, None] * C + c[None, :], inner_sum, mask=there)
    tl.store(bias_parts + place, tl.sum(bias_sum, 0), mask=n < N)
    tl.store(outer_parts + place, tl.sum(outer_sum, 0), mask=n < N)
