"""The functions of kernels/*.c, which the installation compiles where it finds a C compiler: of a CPU, in float32.

Where they are missing, or do not take what they are given, torch's operations do the same in more time.
"""

from __future__ import annotations

import ctypes
import zlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

SOURCES = ("pointwise.c", "mixing.c", "cores.h", "registers.h", "pointwise_core.h", "mixing_core.h")
"""What the library is made from, in the order of its checksum, as setup.py has it."""

REGISTER = 16
"""The functions take widths that are whole multiples of this."""

_POINTER, _COUNT, _INT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int
_ARGUMENTS = {
    "activated_product": [*[_POINTER] * 4, *[_COUNT] * 2],
    "layer_gradient": [*[_POINTER] * 6, *[_COUNT] * 2],
    "head": [*[_POINTER] * 4, ctypes.c_float, _POINTER, *[_COUNT] * 2],
    "head_gradient": [*[_POINTER] * 9, *[_COUNT] * 2],
    "mix": [*[_POINTER] * 3, *[_COUNT] * 4],
    "mix_gradient": [*[_POINTER] * 5, *[_COUNT] * 4, _INT],
}
"""Function -> its own arguments; threads and lanes follow."""


@lru_cache(maxsize=1)
def load() -> tuple[ctypes.CDLL | None, str]:
    """Return the functions, or None and why they do not serve on this machine."""
    spec = find_spec("fmsci.model.kernels._cpu")
    if spec is None or spec.origin is None:
        return None, "it was not compiled: install a C compiler (gcc), then fmsci again"
    try:
        found = ctypes.CDLL(spec.origin)  # its threads are torch's, which is loaded
        found.fmsci_sources.restype = ctypes.c_uint
        sources = b"".join((Path(spec.origin).parent / name).read_bytes() for name in SOURCES)
    except (OSError, AttributeError) as error:  # made for another machine, or this torch shows its OpenMP to nobody
        return None, f"it cannot be loaded: {error}"
    if found.fmsci_sources() != zlib.crc32(sources):
        return None, "its sources have changed since: install fmsci again"
    if found.fmsci_lanes() == 0:
        return None, "this core has no AVX2"
    for name, arguments in _ARGUMENTS.items():
        function = getattr(found, f"fmsci_{name}")
        function.argtypes, function.restype = [*arguments, _INT, _INT], None
    found.fmsci_blocks.argtypes, found.fmsci_blocks.restype = [_COUNT], _COUNT
    return found, ""


def library() -> ctypes.CDLL | None:
    """Return the functions, where they serve on this machine."""
    return load()[0]


@lru_cache(maxsize=1)
def lanes() -> int:
    """Return how many numbers a register of this core holds, as the functions take them: 16 or 8."""
    functions = library()
    return 0 if functions is None else int(functions.fmsci_lanes())


def in_memory(*tensors: Tensor) -> bool:
    """Tell whether the functions can take tensors: they read and write memory as it lies.

    So they take no tensor that only stands for one, nor one whose numbers are not all there, side by side; and they do
    nothing that is seen where operations are recorded.
    """
    if type(tensors[0]) is not Tensor or library() is None or _recorded():
        return False
    for one in tensors:
        if one.dtype != torch.float32 or one.device.type != "cpu" or not one.is_contiguous():
            return False
        if one.is_neg() or one.data_ptr() == 0:
            return False
    return True


def _recorded() -> bool:
    """Tell whether torch's operations are traced or counted: what is done without them would be missing."""
    return torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack() > 0


def call(name: str, *values: Tensor | float) -> None:
    """Call a function with tensors that are :func:`in_memory`, and numbers, on as many threads as torch has."""
    given = (one.data_ptr() if isinstance(one, Tensor) else one for one in values)
    getattr(library(), f"fmsci_{name}")(*given, torch.get_num_threads(), lanes())
