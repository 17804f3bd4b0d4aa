"""The truncated Fourier transform and its inverse as real matrix products, sample by sample in a core's cache.

Of the orthonormal transform of a real field v (H, W, C) the wavenumbers kx = 0..m-1 and ky = 0..m-1, -1..-m are kept:

    V(ky, kx) = 1 / sqrt(H W) sum_y sum_x v(y, x) exp(-i (ky y + kx x)),      angles in units of 2 pi / points

Along y first, the rows cos(k y) and -sin(k y) for k = 0..m; the rows of -k are conjugates, as v is real. Along x then
the products with cos(k x) and sin(k x). Four of their sums and differences are V(k, .) and V(-k, .).

Where there are many wavenumbers the sums along y are halved first: with h half the points, even k see only
v(y) + v(y + h), odd k only v(y) - v(y + h), each on half of the points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fmsci.model.constants import constant
from fmsci.stages import named

HALVED_FROM = 24
"""Modes from which halving the sums on a CPU costs less than it saves (docs/benchmarks.md); on a GPU it never does."""


@dataclass(frozen=True)
class Rows:
    """Some wavenumbers k <= m along y: all, the even or the odd ones."""

    count: int
    matrix: Tensor
    """(2 count, points that it sums over): the row cos(k y) of each k, then the row -sin(k y) of each."""
    transposed: Tensor
    plus: slice
    """Those of them that are ky = k of a spectrum, k < m."""
    minus: slice
    """Those that are ky = -k, k > 0."""
    at_plus: slice
    at_minus: slice
    """Where these stand along ky = 0..m-1, -1..-m."""


def build_rows(modes: int, points: int, halved: bool, dtype: torch.dtype, device: torch.device) -> tuple[Rows, ...]:
    """Return all rows along y, or the even and the odd ones, each over half of the points."""
    along_y = angles(modes + 1, points)
    parts = []
    for first, step in ((0, 2), (1, 2)) if halved else ((0, 1),):
        own = along_y[first::step, : points // step]
        matrix = (torch.cat((own.cos(), -own.sin())) / math.sqrt(points)).to(device, dtype)
        count, lowest = len(own), first or step
        last = first + (count - 1) * step
        parts.append(
            Rows(
                count,
                matrix.contiguous(),
                matrix.T.contiguous(),
                plus=slice(0, count - 1 if last == modes else count),
                minus=slice(1 if first == 0 else 0, count),
                at_plus=slice(first, modes, step),
                at_minus=slice(modes + lowest - 1, 2 * modes, step),
            )
        )
    return tuple(parts)


class Transform:
    """The transform of one grid, number of modes, number type and device.

    ``twice`` counts every kx > 0 twice, for its conjugate partner: the inverse transform does, the forward one does
    not. The adjoint of the forward one is the inverse one with the same ``twice``, and the other way round.

    A spectrum is (2, B, 2m, m, C): real and imaginary part, sample, ky = 0..m-1, -1..-m, kx = 0..m-1, channel.
    """

    def __init__(self, height: int, width: int, modes: int, dtype: torch.dtype, device: torch.device) -> None:
        self.height, self.width, self.modes = height, width, modes
        halved = device.type == "cpu" and modes >= HALVED_FROM and height % 2 == 0
        self.rows = build_rows(modes, height, halved, dtype, device)
        along_x = angles(modes, width)
        partners = torch.full((modes, 1), 2.0, dtype=torch.float64)
        partners[0] = 1.0
        self.columns: dict[bool, Tensor] = {}
        """(2m, W): the row cos(kx x) of each kx, then the row sin(kx x) of each; by ``twice``."""
        self.columns_transposed: dict[bool, Tensor] = {}
        for twice, factor in ((False, torch.ones_like(partners)), (True, partners)):
            matrix = (torch.cat((factor * along_x.cos(), factor * along_x.sin())) / math.sqrt(width)).to(device, dtype)
            self.columns[twice], self.columns_transposed[twice] = matrix.contiguous(), matrix.T.contiguous()

    def room(self, like: Tensor, batch: int) -> list[Tensor]:
        """Return room for the products of fields with all waves: (batch, 2, count, 2, m, C) for each part of y.

        First 2: cosine or sine row along y; second 2: along x.
        """
        return [like.new_empty(batch, 2, part.count, 2, self.modes, like.shape[-1]) for part in self.rows]

    @named("transform")
    def analyse(self, v: Tensor, products: list[Tensor], twice: bool) -> None:
        """Write the products of fields v (B, H, W, C) with all waves."""
        batch, _, width, channels = v.shape
        field = v.view(batch, self.height, width * channels)
        for part, folded, target in zip(self.rows, self._fold(field), products, strict=True):
            rows = torch.matmul(part.matrix, folded).view(-1, width, channels)
            torch.matmul(self.columns[twice], rows, out=target.view(len(rows), 2 * self.modes, channels))

    @named("transform")
    def analyse_few(self, x: Tensor, products: list[Tensor]) -> None:
        """Write the products of x (B, c, H, W) with all waves, each kx once; along x first, all rows in one product."""
        batch, channels, height, width = x.shape
        along_x = torch.mm(x.reshape(-1, width), self.columns_transposed[False])
        field = along_x.view(batch * channels, height, -1)
        for part, folded, target in zip(self.rows, self._fold(field), products, strict=True):
            found = torch.matmul(part.matrix, folded).view(batch, channels, 2, part.count, 2, self.modes)
            target.copy_(found.permute(0, 2, 3, 4, 5, 1))

    @named("transform")
    def collect(self, products: list[Tensor]) -> Tensor:
        """Return the spectrum of products: sums and differences of the four of each k and kx."""
        batch, channels, m = len(products[0]), products[0].shape[-1], self.modes
        spectrum = products[0].new_empty(2, batch, 2 * m, m, channels)
        for part, found in zip(self.rows, products, strict=True):
            (cos_cos, cos_sin), (sin_cos, sin_sin) = found[:, :, part.plus].permute(1, 3, 0, 2, 4, 5)
            real, imag = spectrum[:, :, part.at_plus]
            torch.add(cos_cos, sin_sin, out=real)
            torch.sub(sin_cos, cos_sin, out=imag)
            (cos_cos, cos_sin), (sin_cos, sin_sin) = found[:, :, part.minus].permute(1, 3, 0, 2, 4, 5)
            real, imag = spectrum[:, :, part.at_minus]
            torch.sub(cos_cos, sin_sin, out=real)
            torch.add(sin_cos, cos_sin, out=imag).neg_()
        return spectrum

    @named("inverse")
    def spread(self, spectrum: Tensor) -> list[Tensor]:
        """Return the products that make up a spectrum: the adjoint of :meth:`collect`."""
        products = self.room(spectrum, spectrum.shape[1])
        for part, target in zip(self.rows, products, strict=True):
            real, imag = spectrum[:, :, part.at_plus]
            (cos_cos, cos_sin), (sin_cos, sin_sin) = target[:, :, part.plus].permute(1, 3, 0, 2, 4, 5)
            for product, value in ((cos_cos, real), (sin_sin, real), (sin_cos, imag)):
                product.copy_(value)
            torch.neg(imag, out=cos_sin)
            if part.plus.stop < part.count:  # k = m stands for -m alone
                target[:, :, -1] = 0
            real, imag = spectrum[:, :, part.at_minus]
            (cos_cos, cos_sin), (sin_cos, sin_sin) = target[:, :, part.minus].permute(1, 3, 0, 2, 4, 5)
            cos_cos += real
            for product, value in ((sin_sin, real), (sin_cos, imag), (cos_sin, imag)):
                product -= value
        return products

    @named("inverse")
    def synthesise(self, products: list[Tensor], out: Tensor, twice: bool) -> None:
        """Add the fields of products to ``out`` (B, H, W, C)."""
        batch, _, width, channels = out.shape
        field = out.view(batch, self.height, width * channels)
        rows = [
            torch.matmul(self.columns_transposed[twice], found.view(-1, 2 * self.modes, channels)) for found in products
        ]
        wide = [one.view(batch, -1, width * channels) for one in rows]
        if len(wide) == 1:
            field.baddbmm_(self.rows[0].transposed.expand(batch, -1, -1), wide[0])
            return
        even, odd = (torch.matmul(part.transposed, one) for part, one in zip(self.rows, wide, strict=True))
        upper, lower = field.chunk(2, dim=1)
        upper.add_(even).add_(odd)
        lower.add_(even).sub_(odd)

    def _fold(self, field: Tensor) -> tuple[Tensor, ...]:
        """Return what the parts of y sum over: the field, or sum and difference of its halves."""
        if len(self.rows) == 1:
            return (field,)
        upper, lower = field.chunk(2, dim=1)
        return upper + lower, upper - lower


def angles(count: int, points: int) -> Tensor:
    """Return 2 pi k x / points (count, points), reduced in integers so that large grids lose no digits."""
    product = torch.outer(torch.arange(count), torch.arange(points)) % points
    return product.double() * (2 * math.pi / points)


@constant
def transform(height: int, width: int, modes: int, dtype: torch.dtype, device: torch.device) -> Transform:
    """Return the transform of a grid; it is made once."""
    return Transform(height, width, modes, dtype, device)
