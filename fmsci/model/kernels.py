"""Triton kernels of the Fourier layer on a GPU: what passes over whole fields is read once and never stored between.

    analyse      P = (rows cos, sin along x) gelu(z)                      one pass over z
    mix          U(k) = V(k) W(k), or with the conjugate transpose of W   one pass over the weights, as they are kept
    mix_grad     the gradient of W
    synthesise   out = (columns cos, sin) Q + gelu(z) A^T + b             one pass over z, one over out
    descend      grad z of both, and parts of grad A                      one pass each over grad, z and grad z

Fields are (rows, W, C) with rows = B H; products with the waves along x are (rows, J, C), J = 2m; spectra (B, 2, K, C),
K = 2 m^2 wavenumbers. Products add up in float32; where fields are bfloat16, gelu is float32 inside. PRECISION is how
products of float32 are made: tf32, or tf32x3, three of them, as exact as float32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gelu(x):
    """x Phi(x), Phi the normal distribution."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_grad(x):
    """Phi(x) + x phi(x)."""
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327


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
def mix(
    v,
    weight,
    out,
    B,
    K,
    C: tl.constexpr,
    ADJOINT: tl.constexpr,
    PRECISION: tl.constexpr,
    BB: tl.constexpr,
    BI: tl.constexpr,
    BO: tl.constexpr,
):
    """Each wavenumber's complex matrix (C_in, C_out), or its conjugate transpose, on all samples."""
    blocks = tl.cdiv(C, BO)
    k = tl.program_id(1).to(tl.int64)
    b = (tl.program_id(0) // blocks) * BB + tl.arange(0, BB)
    o = (tl.program_id(0) % blocks) * BO + tl.arange(0, BO)
    imag, w_imag = K * C, K * C * C  # how far the imaginary part is from the real one
    at = b.to(tl.int64)[:, None] * (2 * imag) + k * C
    real_sum, imag_sum = tl.zeros((BB, BO), tl.float32), tl.zeros((BB, BO), tl.float32)
    for first in range(0, C, BI):
        i = first + tl.arange(0, BI)
        inside = (b < B)[:, None] & (i < C)[None, :]
        v_r = tl.load(v + at + i[None, :], mask=inside, other=0.0)
        v_i = tl.load(v + at + imag + i[None, :], mask=inside, other=0.0)
        if ADJOINT:
            place = weight + k * C * C + o[None, :] * C + i[:, None]
        else:
            place = weight + k * C * C + i[:, None] * C + o[None, :]
        inside = (i < C)[:, None] & (o < C)[None, :]
        w_r = tl.load(place, mask=inside, other=0.0).to(v_r.dtype)
        w_i = tl.load(place + w_imag, mask=inside, other=0.0).to(v_r.dtype)
        if ADJOINT:
            w_i = -w_i
        real_sum = tl.dot(v_r, w_r, real_sum, input_precision=PRECISION)
        real_sum = tl.dot(-v_i, w_i, real_sum, input_precision=PRECISION)
        imag_sum = tl.dot(v_r, w_i, imag_sum, input_precision=PRECISION)
        imag_sum = tl.dot(v_i, w_r, imag_sum, input_precision=PRECISION)
    inside = (b < B)[:, None] & (o < C)[None, :]
    tl.store(out + at + o[None, :], real_sum.to(out.dtype.element_ty), mask=inside)
    tl.store(out + at + imag + o[None, :], imag_sum.to(out.dtype.element_ty), mask=inside)


@triton.jit
def mix_grad(
    v,
    grad,
    out,
    B,
    K,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
    BB: tl.constexpr,
    BI: tl.constexpr,
    BO: tl.constexpr,
):
    """conj(V)^T G of each wavenumber, summed over samples: the gradient of the weights, in their own number type."""
    blocks = tl.cdiv(C, BO)
    k = tl.program_id(1).to(tl.int64)
    i = (tl.program_id(0) // blocks) * BI + tl.arange(0, BI)
    o = (tl.program_id(0) % blocks) * BO + tl.arange(0, BO)
    imag = K * C
    real_sum, imag_sum = tl.zeros((BI, BO), tl.float32), tl.zeros((BI, BO), tl.float32)
    for first in range(0, B, BB):
        b = first + tl.arange(0, BB)
        at = b.to(tl.int64) * (2 * imag) + k * C
        inside = (i < C)[:, None] & (b < B)[None, :]
        v_r = tl.load(v + at[None, :] + i[:, None], mask=inside, other=0.0)
        v_i = tl.load(v + at[None, :] + imag + i[:, None], mask=inside, other=0.0)
        inside = (b < B)[:, None] & (o < C)[None, :]
        g_r = tl.load(grad + at[:, None] + o[None, :], mask=inside, other=0.0)
        g_i = tl.load(grad + at[:, None] + imag + o[None, :], mask=inside, other=0.0)
        real_sum = tl.dot(v_r, g_r, real_sum, input_precision=PRECISION)
        real_sum = tl.dot(v_i, g_i, real_sum, input_precision=PRECISION)
        imag_sum = tl.dot(v_r, g_i, imag_sum, input_precision=PRECISION)
        imag_sum = tl.dot(-v_i, g_r, imag_sum, input_precision=PRECISION)
    inside = (i < C)[:, None] & (o < C)[None, :]
    place = out + k * C * C + i[:, None] * C + o[None, :]
    tl.store(place, real_sum.to(out.dtype.element_ty), mask=inside)
    tl.store(place + K * C * C, imag_sum.to(out.dtype.element_ty), mask=inside)


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
    J,
    C: tl.constexpr,
    ACTIVATE: tl.constexpr,
    PRECISION: tl.constexpr,
    BX: tl.constexpr,
    BJ: tl.constexpr,
    BC: tl.constexpr,
    ROWS: tl.constexpr,
):
    """(W, J) times the products of each row, and the pointwise part."""
    x = tl.program_id(1) * BX + tl.arange(0, BX)
    c = tl.arange(0, BC)
    there = (x < W)[:, None] & (c < C)[None, :]
    square = (c < C)[:, None] & (c < C)[None, :]
    dtype = z.dtype.element_ty
    a = tl.load(pointwise + c[None, :] * C + c[:, None], mask=square, other=0.0).to(dtype)  # its transpose
    b = tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)
    for index in range(ROWS):
        row = tl.program_id(0).to(tl.int64) * ROWS + index
        inside = there & (row < rows)
        at = row * W * C + x[:, None] * C + c[None, :]
        v = tl.load(z + at, mask=inside, other=0.0)
        if ACTIVATE:
            v = gelu(v.to(tl.float32)).to(dtype)
        total = tl.dot(v, a, input_precision=PRECISION) + b[None, :]
        for first in range(0, J, BJ):
            j = first + tl.arange(0, BJ)
            waves = tl.load(matrix + x[:, None] * J + j[None, :], mask=(x < W)[:, None] & (j < J)[None, :], other=0.0)
            within = (j < J)[:, None] & (c < C)[None, :] & (row < rows)
            products = tl.load(q + row * J * C + j[:, None] * C + c[None, :], mask=within, other=0.0)
            total = tl.dot(waves, products, total, input_precision=PRECISION)
        tl.store(out + at, total.to(dtype), mask=inside)


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
    J,
    C: tl.constexpr,
    ACTIVATE: tl.constexpr,
    PRECISION: tl.constexpr,
    BX: tl.constexpr,
    BJ: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradient of z, and this program's part of that of the pointwise matrix: (programs, C, C)."""
    c = tl.arange(0, BC)
    square = (c < C)[:, None] & (c < C)[None, :]
    dtype = z.dtype.element_ty
    a = tl.load(pointwise + c[:, None] * C + c[None, :], mask=square, other=0.0).to(dtype)
    part = tl.zeros((BC, BC), tl.float32)
    for turn in range(tl.cdiv(rows, tl.num_programs(0))):
        row = tl.program_id(0).to(tl.int64) + turn * tl.num_programs(0)
        for start in range(0, W, BX):
            x = start + tl.arange(0, BX)
            inside = (x < W)[:, None] & (c < C)[None, :] & (row < rows)
            at = row * W * C + x[:, None] * C + c[None, :]
            g = tl.load(grad + at, mask=inside, other=0.0)
            before = tl.load(z + at, mask=inside, other=0.0)
            v = before
            if ACTIVATE:
                v = gelu(before.to(tl.float32)).to(dtype)
            part = tl.dot(tl.trans(g), v, part, input_precision=PRECISION)
            total = tl.dot(g, a, input_precision=PRECISION)
            for first in range(0, J, BJ):
                j = first + tl.arange(0, BJ)
                there = (x < W)[:, None] & (j < J)[None, :]
                waves = tl.load(matrix + x[:, None] * J + j[None, :], mask=there, other=0.0)
                there = (j < J)[:, None] & (c < C)[None, :] & (row < rows)
                products = tl.load(q + row * J * C + j[:, None] * C + c[None, :], mask=there, other=0.0)
                total = tl.dot(waves, products, total, input_precision=PRECISION)
            if ACTIVATE:
                total *= gelu_grad(before.to(tl.float32))
            tl.store(out + at, total.to(dtype), mask=inside)
    place = parts + tl.program_id(0) * C * C + c[:, None] * C + c[None, :]
    tl.store(place, part, mask=square)
