"""Kernels of the mixing: a complex matrix for each wavenumber; see :mod:`fmsci.model.kernels`.

Programs are counted along one axis of the grid, those of a wavenumber beside each other: the other axes end at 65,535,
which K = 2 m^2 passes at m = 182. Offsets between planes are 64 bits: at C = 128 a plane has 2^31 numbers at m = 256.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
    across = tl.cdiv(C, BO)
    blocks = tl.cdiv(B, BB) * across
    k = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    b = (block // across) * BB + tl.arange(0, BB)
    o = (block % across) * BO + tl.arange(0, BO)
    imag = tl.cast(K, tl.int64) * C  # how far the imaginary part is from the real one
    w_imag = imag * C
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
    across = tl.cdiv(C, BO)
    blocks = tl.cdiv(C, BI) * across
    k = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    i = (block // across) * BI + tl.arange(0, BI)
    o = (block % across) * BO + tl.arange(0, BO)
    imag = tl.cast(K, tl.int64) * C
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
    tl.store(place + imag * C, imag_sum.to(out.dtype.element_ty), mask=inside)
