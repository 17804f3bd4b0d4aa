"""The truncated Fourier transform and its inverse as real matrix products, a few rows at a time in a core's cache.

Of the orthonormal transform of a real field v the wavenumbers kx = 0..m-1 and ky = 0..m-1, -1..-m are kept:

    V(ky, kx) = 1 / sqrt(H W) sum_y sum_x v(y, x) exp(-i (ky y + kx x)),      angles in units of 2 pi / points

Along x first, each row of the grid with the rows cos(k x) and -sin(k x), k = 0..m-1; then along y, with cos(k y) and
-sin(k y), k = 0..m; those of -k are conjugates, as v is real. Of the four products of a k and a kx,

    V(k)  = (cos cos - sin sin) + i (sin cos + cos sin),      V(-k) = (cos cos + sin sin) - i (sin cos - cos sin)

with the row -sin where it says sin. Where there are many wavenumbers the sums along both axes are halved first: with h
half the points, even k see only v(y) + v(y + h), odd k only v(y) - v(y + h), each on half of the points.

Fields lie as (H, W, B, C), all samples of a point together, so that a product has B C columns, a row of the grid is one
piece of memory, and a spectrum comes out as the mixing wants it: (2 m^2, 2B, C), for each wavenumber, ky = 0..m-1,
-1..-m and in each kx = 0..m-1, the real parts of all samples, then the imaginary ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fmsci.model.constants import constant
from fmsci.model.pieces import count_at_once
from fmsci.stages import named

_OF_CORE: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell

HALVED_FROM = 64 if _OF_CORE.get("amx_tile") else 16
"""Modes from which halving the sums on a CPU costs less than it saves (docs/benchmarks.md); on a GPU it never does.

It goes by the kind of core. AMX itself takes no part in products of float32, but cores that have it make them faster,
beside memory that is no faster.
"""


@dataclass(frozen=True)
class Waves:
    """Some wavenumbers k along an axis: all, the even or the odd ones."""

    k: range
    matrix: Tensor
    """(2 len(k), points that it sums over): the row cos(k y) of each k, then the row -sin(k y) of each."""
    transposed: Tensor

    def plus(self, modes: int) -> tuple[slice, slice]:
        """Return which of them are ky = k < modes, and where these stand in a spectrum."""
        step = self.k.step
        return slice(0, len(range(self.k.start, modes, step))), slice(self.k.start, modes, step)

    def minus(self, modes: int) -> tuple[slice, slice]:
        """Return which of them are ky = -k < 0, and where these stand in a spectrum."""
        step, lowest = self.k.step, self.k.start or self.k.step
        return slice(0 if self.k.start else 1, len(self.k)), slice(modes - 1 + lowest, 2 * modes, step)

    def both(self, modes: int) -> tuple[slice, slice, slice]:
        """Return which of them are either, and where a spectrum has k and where -k."""
        step, lowest = self.k.step, self.k.start or self.k.step
        own = slice(self.minus(modes)[0].start, self.plus(modes)[0].stop)
        return own, slice(lowest, modes, step), slice(modes - 1 + lowest, 2 * modes - 1, step)


def build_waves(count: int, points: int, halved: bool, scale: Tensor | float, like: Tensor) -> list[Waves]:
    """Return all waves k < count of an axis, or the even and the odd ones, each over half of the points.

    ``scale``: a factor for all or for each. ``like``: of the number type and device of the matrices.
    """
    along, factor = angles(count, points), scale / math.sqrt(points)
    rows = torch.stack((factor * along.cos(), -factor * along.sin()))
    parts = []
    for first, step in ((0, 2), (1, 2)) if halved and count > 1 else ((0, 1),):
        own = rows[:, first::step, : points // step].flatten(0, 1).to(like)
        parts.append(Waves(range(first, count, step), own.contiguous(), own.T.contiguous()))
    return parts


class Transform:
    """The transform of one grid, number of modes, number type and device.

    ``twice`` counts every kx > 0 twice, for its conjugate partner: the inverse transform does, the forward one does
    not. The adjoint of the forward one is the inverse one with the same ``twice``, and the other way round.
    """

    def __init__(self, height: int, width: int, modes: int, dtype: torch.dtype, device: torch.device) -> None:
        self.height, self.modes = height, modes
        like = torch.empty(0, dtype=dtype, device=device)
        halved = device.type == "cpu" and modes >= HALVED_FROM
        self.along_y = build_waves(modes + 1, height, halved and height % 2 == 0, 1.0, like)
        halved = halved and width % 2 == 0 and modes % 2 == 0  # into parts of one size
        partners = torch.full((modes, 1), 2.0, dtype=torch.float64)
        partners[0] = 1.0
        self.along_x = {
            twice: build_waves(modes, width, halved, partners if twice else 1.0, like) for twice in (False, True)
        }

    def room(self, like: Tensor, columns: int) -> Tensor:
        """Return room for the products of fields with the waves along x: for each part of x (H, 2 len(k), B C)."""
        parts = self.along_x[False]
        return like.new_empty(len(parts), self.height, 2 * len(parts[0].k), columns)

    @named("transform")
    def analyse(self, v: Tensor, products: Sequence[Tensor], twice: bool) -> None:
        """Write the products of rows of fields, (rows W B, C), with the waves along x."""
        rows, _, columns = products[0].shape
        folded = _fold(v.view(rows, len(products), -1, columns).unbind(1))
        for part, field, target in zip(self.along_x[twice], folded, products, strict=True):
            torch.bmm(part.matrix.expand(rows, -1, -1), field, out=target)

    @named("transform")
    def collect(self, products: Tensor, batch: int) -> Tensor:
        """Return the spectrum (2 m^2, 2B, C) of fields, of their products with the waves along x."""
        m = self.modes
        spectrum = products.new_empty(2 * m * m, 2 * batch, products.shape[-1] // batch)
        real, imag = self._by_parts(spectrum)
        for waves, found in zip(self.along_y, self._along_y(products.flatten(2)), strict=True):
            (cos_cos, cos_sin), (sin_cos, sin_sin) = self._four(found)
            own, at = waves.plus(m)
            torch.sub(cos_cos[own], sin_sin[own], out=real[at])
            torch.add(sin_cos[own], cos_sin[own], out=imag[at])
            own, at = waves.minus(m)
            torch.add(cos_cos[own], sin_sin[own], out=real[at])
            torch.sub(cos_sin[own], sin_cos[own], out=imag[at])
        return spectrum

    @named("inverse")
    def spread(self, spectrum: Tensor, products: Tensor) -> None:
        """Write the products with the waves along x that make up a spectrum: the adjoint of :meth:`collect`."""
        m = self.modes
        real, imag = self._by_parts(spectrum)
        of_y = []
        for waves in self.along_y:
            target = spectrum.new_empty(len(products), 2 * len(waves.k), products[0, 0].numel())
            (cos_cos, cos_sin), (sin_cos, sin_sin) = self._four(target)
            own, plus, minus = waves.both(m)
            torch.add(real[plus], real[minus], out=cos_cos[own])
            torch.sub(real[minus], real[plus], out=sin_sin[own])
            torch.sub(imag[plus], imag[minus], out=sin_cos[own])
            torch.add(imag[plus], imag[minus], out=cos_sin[own])
            if own.start > 0:  # k = 0, whose sines are nothing
                cos_cos[0], cos_sin[0] = real[0], imag[0]
                sin_cos[0] = sin_sin[0] = 0
            if own.stop < len(waves.k):  # k = m, which stands for -m alone
                cos_cos[-1] = sin_sin[-1] = real[-1]
                cos_sin[-1], sin_cos[-1] = imag[-1], -imag[-1]
            of_y.append(target)
        self._from_y(of_y, products.flatten(2))

    @named("inverse")
    def synthesise(self, products: Sequence[Tensor], out: Tensor, twice: bool, add: bool) -> None:
        """Write the rows of fields, (rows W B, C), that products with the waves along x make up, or add them."""
        rows, _, columns = products[0].shape
        fields = out.view(rows, len(products), -1, columns).unbind(1)
        matrices = [part.transposed.expand(rows, -1, -1) for part in self.along_x[twice]]
        if len(products) == 1:
            torch.baddbmm(fields[0], matrices[0], products[0], beta=int(add), out=fields[0])
        else:
            _unfold([torch.bmm(*one) for one in zip(matrices, products, strict=True)], fields, add)

    def _along_y(self, field: Tensor) -> list[Tensor]:
        """Return the products of fields (parts of x, H, columns) with the waves along y, for each part of y."""
        products = [field.new_empty(len(field), 2 * len(part.k), field.shape[2]) for part in self.along_y]
        for columns, *room in _columns(field, *products):
            for part, folded, target in zip(self.along_y, _fold(columns.chunk(len(room), 1)), room, strict=True):
                torch.matmul(part.matrix, folded, out=target)
        return products

    def _from_y(self, products: list[Tensor], out: Tensor) -> None:
        """Write the fields (parts of x, H, columns) that products with the waves along y make up."""
        for columns, *found in _columns(out, *products):
            if len(found) == 1:
                torch.matmul(self.along_y[0].transposed, found[0], out=columns)
            else:
                fields = [torch.matmul(part.transposed, one) for part, one in zip(self.along_y, found, strict=True)]
                _unfold(fields, columns.chunk(2, 1), add=False)

    def _four(self, products: Tensor) -> Tensor:
        """Return products (part of x, 2 k, 2 kx B C) as (cosines, sines along y)(those along x), (k, part, kx, B C)."""
        parts, rows, columns = products.shape
        count = len(self.along_x[False][0].k)
        four = products.view(parts, 2, rows // 2, 2, count, columns // (2 * count))
        return four.permute(1, 3, 2, 0, 4, 5)

    def _by_parts(self, spectrum: Tensor) -> Tensor:
        """Return a spectrum as (real and imaginary, ky, part of x, kx, B C)."""
        parts = self.along_x[False]
        return spectrum.view(2 * self.modes, len(parts[0].k), len(parts), 2, -1).permute(3, 0, 2, 1, 4)


def _columns(*fields: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield matrices, one for each part of x, some columns at a time; the first ones are the highest."""
    first = fields[0]
    at_once = count_at_once(first[0, 0], first[..., 0].numel() * first.element_size(), shared=True)
    return zip(*(torch.split(one, at_once, dim=2) for one in fields), strict=True)


def _fold(fields: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return what the parts of an axis sum over: the field, or sum and difference of its halves."""
    if len(fields) == 1:
        return fields
    first, second = fields
    return first + second, first - second


def _unfold(folded: Sequence[Tensor], out: Sequence[Tensor], add: bool) -> None:
    """Write the halves of what sum and difference make up, or add it: the adjoint of :func:`_fold`."""
    (even, odd), (first, second) = folded, out
    if add:
        first.add_(even).add_(odd)
        second.add_(even).sub_(odd)
    else:
        torch.add(even, odd, out=first)
        torch.sub(even, odd, out=second)


def angles(count: int, points: int) -> Tensor:
    """Return 2 pi k x / points (count, points), reduced in integers so that large grids lose no digits."""
    product = torch.outer(torch.arange(count), torch.arange(points)) % points
    return product.double() * (2 * math.pi / points)


@constant
def transform(height: int, width: int, modes: int, dtype: torch.dtype, device: torch.device) -> Transform:
    """Return the transform of a grid; it is made once."""
    return Transform(height, width, modes, dtype, device)
