"""The spectral convolution: truncated Fourier transform, one complex matrix per kept wavenumber, transform back.

    u_hat(k) = v_hat(k) W(k) for kept k, 0 elsewhere;      v, u: (B, H, W, C) real, channels last

Of the orthonormal transform of a real field, the wavenumbers kx = 0..m-1 (last grid axis, half spectrum) and
ky = 0..m-1, -1..-m are kept. The kept ones are few, so the transform is two small real matrix products per side, and
no complex tensor exists: gradients, autocast, sharding and compilation meet nothing but real numbers.

``weight``: (2, 2m, m, C_in, C_out), first axis real and imaginary part, then ky in the order 0..m-1, -1..-m, then kx.
Source: Li et al., arXiv 2010.08895, eq. (4), with the orthonormal transform of arXiv 2306.00258.

The two forms here are plain operations, for compilers and as oracles; training runs the one of fmsci.model.layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fmsci.model.constants import constant
from fmsci.model.transform import angles


def initial_weight(width: int, modes: int, initial: str = "paper") -> Tensor:
    """Return spectral weights (2, 2m, m, d, d).

    paper: U[0, 1/d^2), as arXiv 2306.00258; the convolution starts close to nothing, the closer the wider the layer.
    balanced: U(-a, a) with a = sqrt(3 / (2 d)), so that a kept wave comes out with the energy that it had.
    """
    drawn = torch.rand(2, 2 * modes, modes, width, width)
    if initial == "paper":
        return drawn.div_(width**2)
    bound = math.sqrt(3 / (2 * width))
    return drawn.mul_(2 * bound).sub_(bound)


def convolve_fft(v: Tensor, weight: Tensor) -> Tensor:
    """Return the spectral convolution by fast Fourier transforms: the oracle of :func:`convolve_dft`.

    Of fields in bfloat16 or float16 it computes in float32, as there are no such transforms on every device.
    """
    if v.dtype in {torch.bfloat16, torch.float16}:
        return convolve_fft(v.float(), weight.float()).to(v.dtype)
    _, height, width, _ = v.shape
    m = weight.shape[2]
    v_hat = torch.fft.rfft2(v, dim=(1, 2), norm="ortho")
    kept = torch.cat((v_hat[:, :m, :m], v_hat[:, -m:, :m].flip(1)), dim=1)
    mixed = torch.einsum("byxi,yxio->byxo", kept, torch.complex(weight[0], weight[1]))
    u_hat = v.new_zeros(v.shape[0], height, width // 2 + 1, weight.shape[-1], dtype=mixed.dtype)
    u_hat[:, :m, :m] = mixed[:, :m]
    u_hat[:, -m:, :m] = mixed[:, m:].flip(1)
    u: Tensor = torch.fft.irfft2(u_hat, s=(height, width), dim=(1, 2), norm="ortho")
    return u


def convolve_dft(v: Tensor, weight: Tensor) -> Tensor:
    """Return the spectral convolution by real matrix products only.

    Forward, along y first: V(ky, x) = sum_y v exp(-i ky y) for ky = 0..m; the negative rows are its conjugates, as v
    is real. Then along x, four real products give +ky and -ky at once. Backward in the reverse order.
    """
    batch, height, width, channels = v.shape
    out_channels = weight.shape[-1]
    m = weight.shape[2]
    # A compiler traces through a cache, and says so in a warning; it makes constants of them itself.
    matrices = _transforms if torch.compiler.is_compiling() else _cached_transforms
    to_ky, to_kx, from_kx, from_ky = matrices(height, width, m, v.dtype, v.device)

    # (B, 2 (m+1), W C): rows 0..m real part, then 0..m imaginary part of V(ky, x).
    rows = torch.matmul(to_ky, v.reshape(batch, height, width * channels))
    # (B, 2, m+1, 2m, C): for each row its products with cos(kx x) (first m) and sin(kx x) (last m).
    parts = torch.matmul(to_kx, rows.reshape(batch, 2, m + 1, width, channels))
    real_cos, real_sin = parts[:, 0, :, :m], parts[:, 0, :, m:]
    imag_cos, imag_sin = parts[:, 1, :, :m], parts[:, 1, :, m:]
    # V exp(-i kx x) for +ky, and conj(V) exp(-i kx x) for -ky; the rows -1..-m are |ky| = 1..m.
    v_real = torch.cat(((real_cos + imag_sin)[:, :m], (real_cos - imag_sin)[:, 1:]), dim=1)
    v_imag = torch.cat(((imag_cos - real_sin)[:, :m], (-imag_cos - real_sin)[:, 1:]), dim=1)

    u_real, u_imag = _mix(v_real, v_imag, weight)

    # Rows k = 0..m of the sums and differences of +k and -k; row 0 has no partner below, row m none above.
    zero = u_real.new_zeros(batch, 1, m, out_channels)
    plus = [torch.cat((part[:, :m], zero), dim=1) for part in (u_real, u_imag)]
    minus = [torch.cat((zero, part[:, m:]), dim=1) for part in (u_real, u_imag)]
    even = torch.cat((plus[0] + minus[0], plus[1] + minus[1]), dim=2)
    odd = torch.cat((plus[1] - minus[1], plus[0] - minus[0]), dim=2)
    halves = torch.stack((even, odd), dim=1)  # (B, 2, m+1, 2m, C)
    rows = torch.matmul(from_kx, halves).reshape(batch, 2 * (m + 1), width * out_channels)
    return torch.matmul(from_ky, rows).reshape(batch, height, width, out_channels)


def _mix(v_real: Tensor, v_imag: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply each kept wavenumber by its complex matrix: (B, 2m, m, C_in) -> (B, 2m, m, C_out), real and imaginary.

    2 m^2 independent products (B x C_in)(C_in x C_out), so the wavenumber is the batch axis of a batched product.
    """
    batch, rows, columns, channels = v_real.shape
    real = v_real.permute(1, 2, 0, 3).reshape(rows * columns, batch, channels)
    imag = v_imag.permute(1, 2, 0, 3).reshape(rows * columns, batch, channels)
    w_real, w_imag = weight.reshape(2, rows * columns, channels, -1).unbind(0)
    out_real = torch.baddbmm(torch.bmm(real, w_real), imag, w_imag, alpha=-1)
    out_imag = torch.baddbmm(torch.bmm(real, w_imag), imag, w_real)
    shape = (rows, columns, batch, -1)
    return out_real.reshape(shape).permute(2, 0, 1, 3), out_imag.reshape(shape).permute(2, 0, 1, 3)


def _transforms(
    height: int, width: int, m: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the constant matrices: (2(m+1), H), (2m, W), (2, 1, W, 2m) and (H, 2(m+1)), each scaled orthonormally."""
    y, x = angles(m + 1, height), angles(m, width)
    to_ky = torch.cat((y.cos(), -y.sin())) / math.sqrt(height)
    to_kx = torch.cat((x.cos(), x.sin())) / math.sqrt(width)
    # Each kx > 0 stands for its conjugate partner too.
    twice = torch.full((m, 1), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    cos, sin = twice * x.cos() / math.sqrt(width), twice * x.sin() / math.sqrt(width)
    from_kx = torch.stack((torch.cat((cos, -sin)).T, torch.cat((cos, sin)).T)).unsqueeze(1)
    from_ky = torch.cat((y.cos(), -y.sin())).T / math.sqrt(height)
    return tuple(matrix.contiguous().to(device, dtype) for matrix in (to_ky, to_kx, from_kx, from_ky))  # type: ignore[return-value]


_cached_transforms = constant(_transforms)
