"""Kernels that pass over whole fields; see :mod:`fmsci.model.kernels`."""

from __future__ import annotations

import triton
import triton.language as tl

from fmsci.model.kernels.activation import gelu, gelu_grad


@triton.jit
def analyse(
    z,
    matrix,
    out,
    count,
    W,
    J,
    C: tl.constexpr,
    ACTIVATE: tl.constexpr,
    PRECISION: tl.constexpr,
    BJ: tl.constexpr,
    BX: tl.constexpr,
    BG: tl.constexpr,
):
    """(J, W) times each field; ``count`` = rows C numbers along a tile, so that narrow fields fill one, too."""
    number = tl.program_id(0).to(tl.int64) * BG + tl.arange(0, BG)
    row, channel = number // C, number % C
    j = tl.program_id(1) * BJ + tl.arange(0, BJ)
    total = tl.zeros((BJ, BG), tl.float32)
    for first in range(0, W, BX):
        x = first + tl.arange(0, BX)
        waves = tl.load(matrix + j[:, None] * W + x[None, :], mask=(j < J)[:, None] & (x < W)[None, :], other=0.0)
        inside = (x < W)[:, None] & (number < count)[None, :]
        v = tl.load(z + (row * W * C + channel)[None, :] + x[:, None] * C, mask=inside, other=0.0)
        if ACTIVATE:
            v = gelu(v.to(tl.float32)).to(v.dtype)
        total = tl.dot(waves, v, total, input_precision=PRECISION)
    inside = (j < J)[:, None] & (number < count)[None, :]
    tl.store(out + (row * J * C + channel)[None, :] + j[:, None] * C, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def along_x(
    total,
    q,
    matrix,
    row,
    x,
    c,
    rows,
    W,
    J: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
    BJ: tl.constexpr,
):
    """``total`` (BX, BC) with what the waves along x add at the points x of a row."""
    if J <= BJ:  # no loop inside the loop over tiles, so that the next tile is loaded meanwhile
        j = tl.arange(0, BJ)
        waves = tl.load(matrix + x[:, None] * J + j[None, :], mask=(x < W)[:, None] & (j < J)[None, :], other=0.0)
        inside = (j < J)[:, None] & (c < C)[None, :] & (row < rows)
        products = tl.load(q + row * J * C + j[:, None] * C + c[None, :], mask=inside, other=0.0)
        total = tl.dot(waves, products, total, input_precision=PRECISION)
    else:
        for first in range(0, J, BJ):
            j = first + tl.arange(0, BJ)
            waves = tl.load(matrix + x[:, None] * J + j[None, :], mask=(x < W)[:, None] & (j < J)[None, :], other=0.0)
            inside = (j < J)[:, None] & (c < C)[None, :] & (row < rows)
            products = tl.load(q + row * J * C + j[:, None] * C + c[None, :], mask=inside, other=0.0)
            total = tl.dot(waves, products, total, input_precision=PRECISION)
    return total


@triton.jit
def synthesise(
    q,
    matrix,
    z,
    pointwise,
    bias,
    out,
    rows,
    W,
    J: tl.constexpr,
    C: tl.constexpr,
    CI: tl.constexpr,
    ACTIVATE: tl.constexpr,
    PRECISION: tl.constexpr,
    BX: tl.constexpr,
    BJ: tl.constexpr,
    BC: tl.constexpr,
    BCI: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The field that the products along x stand for, and the pointwise part, from CI channels to C."""
    x = tl.program_id(1) * BX + tl.arange(0, BX)
    c, i = tl.arange(0, BC), tl.arange(0, BCI)
    there = (x < W)[:, None] & (c < C)[None, :]
    given = (x < W)[:, None] & (i < CI)[None, :]
    both = (i < CI)[:, None] & (c < C)[None, :]
    dtype = z.dtype.element_ty
    a = tl.load(pointwise + c[None, :] * CI + i[:, None], mask=both, other=0.0).to(dtype)  # its transpose
    b = tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)
    for index in range(ROWS):
        row = tl.program_id(0).to(tl.int64) * ROWS + index
        at = row * W * CI + x[:, None] * CI + i[None, :]
        v = tl.load(z + at, mask=given & (row < rows), other=0.0)
        if ACTIVATE:
            v = gelu(v.to(tl.float32)).to(dtype)
        total = tl.dot(v, a, input_precision=PRECISION) + b[None, :]
        total = along_x(total, q, matrix, row, x, c, rows, W, J, C, PRECISION, BJ)
        at = row * W * C + x[:, None] * C + c[None, :]
        tl.store(out + at, total.to(dtype), mask=there & (row < rows))


@triton.jit
def descend(
    q,
    matrix,
    grad,
    z,
    pointwise,
    out,
    parts,
    rows,
    W,
    J: tl.constexpr,
    C: tl.constexpr,
    ACTIVATE: tl.constexpr,
    GRAD_Z: tl.constexpr,
    GRAD_A: tl.constexpr,
    PRECISION: tl.constexpr,
    BX: tl.constexpr,
    BJ: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradient of z, and this program's part of that of the pointwise matrix: (programs, C, C); or one of them."""
    c = tl.arange(0, BC)
    square = (c < C)[:, None] & (c < C)[None, :]
    dtype = z.dtype.element_ty
    if GRAD_Z:
        a = tl.load(pointwise + c[:, None] * C + c[None, :], mask=square, other=0.0).to(dtype)
    if GRAD_A:
        part = tl.zeros((BC, BC), tl.float32)
    across = tl.cdiv(W, BX)
    for turn in range(tl.cdiv(rows * across, tl.num_programs(0))):
        tile = tl.program_id(0).to(tl.int64) + turn * tl.num_programs(0)
        row = tile // across
        x = (tile % across).to(tl.int32) * BX + tl.arange(0, BX)
        inside = (x < W)[:, None] & (c < C)[None, :] & (row < rows)
        at = row * W * C + x[:, None] * C + c[None, :]
        g = tl.load(grad + at, mask=inside, other=0.0)
        if GRAD_A or ACTIVATE:
            before = tl.load(z + at, mask=inside, other=0.0)
        if GRAD_A:
            v = before
            if ACTIVATE:
                v = gelu(before.to(tl.float32)).to(dtype)
            part = tl.dot(tl.trans(g), v, part, input_precision=PRECISION)
        if GRAD_Z:
            total = tl.dot(g, a, input_precision=PRECISION)
            total = along_x(total, q, matrix, row, x, c, rows, W, J, C, PRECISION, BJ)
            if ACTIVATE:
                total *= gelu_grad(before.to(tl.float32))
            tl.store(out + at, total.to(dtype), mask=inside)
    if GRAD_A:
        place = parts + tl.program_id(0) * C * C + c[:, None] * C + c[None, :]
        tl.store(place, part, mask=square)


@triton.jit
def outer(
    grad,
    v,
    parts,
    points,
    C: tl.constexpr,
    CI: tl.constexpr,
    PRECISION: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
    BCI: tl.constexpr,
):
    """This program's part of grad^T v, summed over points (points, C), (points, CI): (programs, C, CI)."""
    c, i = tl.arange(0, BC), tl.arange(0, BCI)
    part = tl.zeros((BCI, BC), tl.float32)
    for turn in range(tl.cdiv(points, BP * tl.num_programs(0))):
        block = tl.program_id(0).to(tl.int64) + turn * tl.num_programs(0)
        p = block * BP + tl.arange(0, BP)
        g = tl.load(grad + p[:, None] * C + c[None, :], mask=(p < points)[:, None] & (c < C)[None, :], other=0.0)
        columns = tl.load(v + p[None, :] * CI + i[:, None], mask=(p < points)[None, :] & (i < CI)[:, None], other=0.0)
        part = tl.dot(columns, g, part, input_precision=PRECISION)
    place = parts + tl.program_id(0) * C * CI + c[None, :] * CI + i[:, None]
    tl.store(place, part, mask=(i < CI)[:, None] & (c < C)[None, :])
