"""What a Fourier layer and the head do at each point, on a CPU in one compiled pass, else by torch's operations.

By torch's a step of 1M parameters spends half of its time here: gelu of a number takes 0.7 ns and its gradient 1.4, an
operation goes over a piece of a field once more, and products of 16 columns reach half of a core's rate.
kernels/pointwise.c does it in one pass, and its gelu is nearer to float64. Where it was not compiled, for other widths
and for other numbers than float32 on a CPU, torch's operations do the same.
"""

from __future__ import annotations

import ctypes
import zlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from fmsci.model.pieces import add_product

SOURCES = ("pointwise.c", "pointwise_core.h")
REGISTER, WIDEST = 16, 64
"""The compiled pass takes widths that are whole multiples of the first, up to the second: from there on products count
most, and torch's are as fast (docs/benchmarks.md)."""

_POINTER, _COUNT, _INT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int


@lru_cache(maxsize=1)
def load() -> tuple[ctypes.CDLL | None, str]:
    """Return the functions of kernels/pointwise.c, or None and why they do not serve on this machine."""
    spec = find_spec("fmsci.model.kernels._pointwise")
    if spec is None or spec.origin is None:
        return None, "it was not compiled: install a C compiler (gcc), then fmsci again"
    try:
        library = ctypes.CDLL(spec.origin)  # its threads are torch's, which is loaded
        library.fmsci_sources.restype = ctypes.c_uint
        sources = b"".join((Path(spec.origin).parent / name).read_bytes() for name in SOURCES)
    except (OSError, AttributeError) as error:  # made for another machine, or this torch shows its OpenMP to nobody
        return None, f"it cannot be loaded: {error}"
    if library.fmsci_sources() != zlib.crc32(sources):
        return None, "its sources have changed since: install fmsci again"
    if library.fmsci_lanes() == 0:
        return None, "this core has no AVX2"
    for name, pointers in {"activated_product": 4, "layer_gradient": 6, "head_gradient": 9}.items():
        function = getattr(library, f"fmsci_{name}")
        function.argtypes, function.restype = [*[_POINTER] * pointers, _COUNT, _COUNT, _INT, _INT], None
    library.fmsci_head.argtypes = [*[_POINTER] * 4, ctypes.c_float, _POINTER, _COUNT, _COUNT, _INT, _INT]
    library.fmsci_head.restype = None
    library.fmsci_blocks.argtypes, library.fmsci_blocks.restype = [_COUNT], _COUNT
    return library, ""


def compiled() -> ctypes.CDLL | None:
    """Return the functions of kernels/pointwise.c, where they serve on this machine."""
    return load()[0]


@lru_cache(maxsize=1)
def lanes() -> int:
    """Return how many numbers a register of this core holds, as the compiled pass takes them: 16 or 8."""
    library = compiled()
    return 0 if library is None else int(library.fmsci_lanes())


def serves(points: Tensor, *others: Tensor) -> bool:
    """Tell whether the compiled pass takes points (N, d) and what belongs to them: it reads memory as it lies.

    So it takes no tensor that only stands for one, nor one whose numbers are not all there, side by side.
    """
    if points.shape[1] % REGISTER or points.shape[1] > WIDEST or type(points) is not Tensor or compiled() is None:
        return False
    for one in (points, *others):
        if one.dtype != torch.float32 or one.device.type != "cpu" or not one.is_contiguous():
            return False
        if one.is_neg() or one.data_ptr() == 0:
            return False
    return True


def _call(name: str, *values: Tensor | float, of: Tensor) -> None:
    given = (one.data_ptr() if isinstance(one, Tensor) else one for one in values)
    getattr(compiled(), f"fmsci_{name}")(*given, *of.shape, torch.get_num_threads(), lanes())


def _room(points: Tensor, count: int) -> Tensor:
    library = compiled()
    assert library is not None
    return points.new_empty(library.fmsci_blocks(len(points)), count)


def activated_product(z: Tensor, columns: Tensor, out: Tensor) -> Tensor:
    """Return gelu(z), (N, d), and write gelu(z) @ columns."""
    if columns.shape != (z.shape[1], z.shape[1]) or not serves(z, columns, out):
        v = functional.gelu(z)
        torch.mm(v, columns, out=out)
        return v
    v = torch.empty_like(z)
    _call("activated_product", z, columns, v, out, of=z)
    return v


def layer_gradient(above: Tensor, z: Tensor, pointwise: Tensor, grad: Tensor, grad_pointwise: Tensor) -> None:
    """Make (grad + above @ pointwise) gelu'(z) of ``grad``, and add above^T gelu(z) to ``grad_pointwise``."""
    if pointwise.shape == (z.shape[1], z.shape[1]) and serves(z, above, pointwise, grad, grad_pointwise):
        room = _room(z, grad_pointwise.numel())
        _call("layer_gradient", above, z, pointwise, grad, grad_pointwise, room, of=z)
    else:
        add_product(grad_pointwise, above.t(), functional.gelu(z))
        grad.addmm_(above, pointwise)
        torch.ops.aten.gelu_backward.grad_input(grad, z, grad_input=grad)


class HeadAtPoints:
    """gelu(v inner^T + inner_bias) . outer + outer_bias of points v, (N, d) -> (N, 1), and its gradient.

    Points come some at a time. The gradients of the parameters are summed up here, in the parameters' own precision:
    bfloat16 would lose the later ones.
    """

    def __init__(self, inner: Tensor, inner_bias: Tensor, outer: Tensor) -> None:
        self.inner, self.inner_bias, self.outer = inner, inner_bias, outer
        self.columns = inner.t().contiguous()
        self.sums = torch.zeros(inner.numel() + 2 * outer.numel(), dtype=outer.dtype, device=outer.device)
        sizes = [inner.numel(), outer.numel(), outer.numel()]
        grad_inner, grad_outer, self.grad_bias = torch.split(self.sums, sizes)
        self.grad_inner, self.grad_outer = grad_inner.view_as(inner), grad_outer.view_as(outer)

    def _serves(self, v: Tensor, *others: Tensor) -> bool:
        width = v.shape[1]
        fits = self.inner.shape == (2 * width, width) and self.inner_bias.numel() == self.outer.numel() == 2 * width
        return fits and serves(v, self.inner, self.inner_bias, self.outer, *others)

    def values(self, v: Tensor, outer_bias: Tensor, out: Tensor) -> None:
        """Write the values at points v."""
        if self._serves(v, out):
            given = (v, self.columns, self.inner_bias, self.outer, outer_bias.item(), out)
            _call("head", *given, of=v)
        else:
            h = torch.ops.aten.gelu_(torch.addmm(self.inner_bias, v, self.columns))
            torch.addmm(outer_bias, h.to(self.outer.dtype), self.outer.t(), out=out)

    def add_gradient(self, v: Tensor, above: Tensor, out: Tensor) -> None:
        """Write the gradient of v, of that of the values, and add those of the parameters to the sums."""
        if self._serves(v, above, out):
            room = _room(v, len(self.sums))
            given = (v, above, self.columns, self.inner, self.inner_bias, self.outer, out, self.sums, room)
            _call("head_gradient", *given, of=v)
            return
        h = torch.addmm(self.inner_bias, v, self.columns)
        a = functional.gelu(h)
        self.grad_outer.addmm_(above.t(), a.to(self.outer.dtype))
        grad_h = torch.mul(above, self.outer, out=a)  # a has served
        torch.ops.aten.gelu_backward.grad_input(grad_h, h, grad_input=grad_h)
        self.grad_bias += grad_h.sum(0, dtype=self.outer.dtype)
        add_product(self.grad_inner, grad_h.t(), v)
        torch.mm(grad_h, self.inner, out=out)
