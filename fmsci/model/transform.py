"""The truncated Fourier transform and its inverse as real matrix products, sample by sample in a core's cache.

Of the orthonormal transform of a real field v (H, W, C) the wavenumbers kx = 0..m-1 and ky = 0..m-1, -1..-m are kept:

    V(ky, kx) = 1 / sqrt(H W) sum_y sum_x v(y, x) exp(-i (ky y + kx x)),      angles in units of 2 pi / points

Along y first, the rows cos(k y) and -sin(k y) for k = 0..m; the rows of -k are conjugates, as v is real. Along x then
the products with cos(k x) and sin(k x). Four of their sums and differences are V(k, .) and V(-k, .).

Where there are many wavenumbers the sums are halved first: with h half the points, even k see only v(y) + v(y + h), odd
k only v(y) - v(y + h), each on half of the points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

HALVED_FROM = 24
"""Modes from which halving a sum on a CPU costs less than it saves (docs/benchmarks.md); on a GPU it never does."""


@dataclass(frozen=True)
class Part:
    """Some wavenumbers of an axis: 0..K-1 (``step`` 1), the even (``first`` 0) or the odd ones (``first`` 1)."""

    first: int
    step: int
    count: int
    matrix: Tensor
    """(2 count, points that it sums over): a cosine row for each wavenumber, then a sine row for each."""
    transposed: Tensor


def build_axis(points: int, cosine: Tensor, sine: Tensor, halved: bool) -> tuple[Part, ...]:
    """Return the parts of an axis from its rows (K, points), which hold every factor already."""
    steps = ((0, 2), (1, 2)) if halved else ((0, 1),)
    parts = []
    for first, step in steps:
        rows = [wave[first::step, : points // len(steps)] for wave in (cosine, sine)]
        matrix = torch.cat(rows)
        parts.append(Part(first, step, len(rows[0]), matrix.contiguous(), matrix.T.contiguous()))
    return tuple(parts)


class Transform:
    """The transform of one grid, number of modes, number type and device.

    ``twice`` counts every kx > 0 twice, for its conjugate partner: the inverse transform does, the forward one does not.
    The adjoint of ``analyse`` is ``synthesise`` with the same ``twice``, and the other way round.
    """

    def __init__(self, height: int, width: int, modes: int, dtype: torch.dtype, device: torch.device) -> None:
        self.height, self.width, self.modes = height, width, modes
        on_cpu = device.type == "cpu" and modes >= HALVED_FROM
        halve_y, halve_x = on_cpu and height % 2 == 0, on_cpu and width % 2 == 0
        y, x = _angles(modes + 1, height), _angles(modes, width)
        weight = torch.full((modes, 1), 2.0, dtype=torch.float64)
        weight[0] = 1.0

        def place(wave: Tensor) -> Tensor:
            return wave.to(device, dtype)

        self.y = build_axis(height, place(y.cos() / math.sqrt(height)), place(-y.sin() / math.sqrt(height)), halve_y)
        self.x = {
            twice: build_axis(width, *(place(factor * wave / math.sqrt(width)) for wave in (x.cos(), x.sin())), halve_x)
            for twice, factor in ((False, torch.ones_like(weight)), (True, weight))
        }

    def analyse(self, v: Tensor, into: list[Tensor], twice: bool) -> None:
        """Write the products of fields v (B, H, W, C) with all waves to ``into``, as :meth:`products` made it."""
        batch, _, width, channels = v.shape
        at = 0
        for part_y, folded in zip(self.y, _fold(v.view(batch, self.height, width * channels), len(self.y)), strict=True):
            rows = torch.matmul(part_y.matrix, folded).view(batch, 2 * part_y.count, width, channels)
            for part_x, narrow in zip(self.x[twice], _fold(rows, len(self.x[twice])), strict=True):
                torch.matmul(part_x.matrix, narrow, out=into[at])
                at += 1

    def products(self, v: Tensor, batch: int) -> list[Tensor]:
        """Return room for what :meth:`analyse` writes: (batch, 2 rows, 2 columns, C) for each pair of parts."""
        return [
            v.new_empty(batch, 2 * rows.count, 2 * columns.count, v.shape[-1])
            for rows in self.y
            for columns in self.x[False]
        ]

    def collect(self, products: list[Tensor]) -> Tensor:
        """Return the spectrum (2 m m, 2, B, C) of the products: wavenumber, real and imaginary part, sample, channel."""
        batch, channels, m = len(products[0]), products[0].shape[-1], self.modes
        spectrum = products[0].new_empty(2 * m, m, 2, batch, channels)
        pieces = iter(products)
        for rows in self.y:
            for columns in self.x[False]:
                piece = next(pieces).view(batch, 2, rows.count, 2, columns.count, channels).permute(1, 3, 2, 4, 0, 5)
                (cos_cos, cos_sin), (sin_cos, sin_sin) = piece[0], piece[1]
                kx = slice(columns.first, None, columns.step)
                plus, minus = _rows_of(rows, m)
                ours = spectrum[plus.target, kx]
                torch.add(cos_cos[plus.source], sin_sin[plus.source], out=ours[:, :, 0])
                torch.sub(sin_cos[plus.source], cos_sin[plus.source], out=ours[:, :, 1])
                ours = spectrum[minus.target, kx]
                torch.sub(cos_cos[minus.source], sin_sin[minus.source], out=ours[:, :, 0])
                torch.add(sin_cos[minus.source], cos_sin[minus.source], out=ours[:, :, 1]).neg_()
        return spectrum.view(2 * m * m, 2, batch, channels)

    def spread(self, spectrum: Tensor) -> list[Tensor]:
        """Return what :meth:`synthesise` takes, from a spectrum (2 m m, 2, B, C): the adjoint of :meth:`collect`."""
        _, _, batch, channels = spectrum.shape
        m = self.modes
        spectrum = spectrum.view(2 * m, m, 2, batch, channels)
        result = []
        for rows in self.y:
            for columns in self.x[False]:
                piece = spectrum.new_empty(batch, 2, rows.count, 2, columns.count, channels)
                (cos_cos, cos_sin), (sin_cos, sin_sin) = piece.permute(1, 3, 2, 4, 0, 5)
                kx = slice(columns.first, None, columns.step)
                plus, minus = _rows_of(rows, m)
                ours = spectrum[plus.target, kx]
                real, imag = ours[:, :, 0], ours[:, :, 1]
                for target, source in ((cos_cos, real), (sin_sin, real), (sin_cos, imag)):
                    target[plus.source] = source
                torch.neg(imag, out=cos_sin[plus.source])
                if plus.source.stop is not None:  # ky = m has no partner +m among the kept wavenumbers
                    for target in (cos_cos, sin_sin, sin_cos, cos_sin):
                        target[-1] = 0
                ours = spectrum[minus.target, kx]
                real, imag = ours[:, :, 0], ours[:, :, 1]
                cos_cos[minus.source] += real
                sin_sin[minus.source] -= real
                sin_cos[minus.source] -= imag
                cos_sin[minus.source] -= imag
                result.append(piece.view(batch, 2 * rows.count, 2 * columns.count, channels))
        return result

    def synthesise(self, pieces: list[Tensor], out: Tensor, twice: bool) -> None:
        """Add the fields of spread spectra to ``out`` (B, H, W, C)."""
        batch, _, width, channels = out.shape
        at = 0
        halves = []
        for part_y in self.y:
            narrow = []
            for part_x in self.x[twice]:
                narrow.append(torch.matmul(part_x.transposed, pieces[at]))
                at += 1
            rows = narrow[0] if len(narrow) == 1 else torch.cat((narrow[0] + narrow[1], narrow[0] - narrow[1]), dim=2)
            halves.append((part_y.transposed, rows.view(batch, 2 * part_y.count, width * channels)))
        field = out.view(batch, self.height, width * channels)
        if len(halves) == 1:
            field.baddbmm_(halves[0][0].expand(batch, -1, -1), halves[0][1])
            return
        upper, lower = field.chunk(2, dim=1)
        even, odd = (torch.matmul(matrix, rows) for matrix, rows in halves)
        upper.add_(even).add_(odd)
        lower.add_(even).sub_(odd)


@dataclass(frozen=True)
class _Rows:
    """Which rows of a part (``source``) belong to which ky of a spectrum (``target``)."""

    source: slice
    target: slice


def _rows_of(part: Part, m: int) -> tuple[_Rows, _Rows]:
    """Return the rows of ky = 0..m-1 and those of ky = -1..-m, which stand behind them from -1 on."""
    last = part.first + (part.count - 1) * part.step
    plus = _Rows(slice(0, -1 if last == m else None), slice(part.first, m, part.step))
    skipped = 1 if part.first == 0 else 0
    lowest = part.first + skipped * part.step
    return plus, _Rows(slice(skipped, None), slice(m + lowest - 1, 2 * m, part.step))


def _fold(values: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Return what the parts of an axis sum over: the values (B, points, ...), or sum and difference of their halves."""
    if parts == 1:
        return (values,)
    axis = 1 if values.dim() == 3 else 2
    first, second = values.chunk(2, dim=axis)
    return first + second, first - second


def _angles(count: int, points: int) -> Tensor:
    """Return 2 pi k x / points (count, points), reduced in integers so that large grids lose no digits."""
    product = torch.outer(torch.arange(count), torch.arange(points)) % points
    return product.double() * (2 * math.pi / points)


@lru_cache(maxsize=32)
def transform(height: int, width: int, modes: int, dtype: torch.dtype, device: torch.device) -> Transform:
    """Return the transform of a grid; it is made once."""
    return Transform(height, width, modes, dtype, device)
