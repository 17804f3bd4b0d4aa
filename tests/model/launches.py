"""What the model starts on a GPU, without one: every kernel with its arguments, from tensors that have no numbers.

``python -m tests.model.launches CHANNELS MODES NUMBER_TYPE`` compiles them for an H100 and prints what they need.
"""

import json
import re
import sys
from typing import Any, NamedTuple

import torch

from fmsci.model import fused, fused_first, fused_head
from fmsci.model.kernels import start
from fmsci.model.tiles import smaller, tiles

SHARED_MEMORY = 227 * 1024
"""Bytes that a program may have on an H100."""

KINDS = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}


class Launch(NamedTuple):
    kernel: Any
    grid: Any
    given: tuple
    dtype: torch.dtype
    lengths: dict
    called: str
    constants: dict

    @property
    def tile(self):
        return tiles(self.called, self.constants["C"], self.dtype, self.constants["PRECISION"], **self.lengths)


def launches(batch, grid, channels, modes, dtype=torch.float32, given=4):
    """Return the launches of the first layer with the lift of ``given`` channels, of another layer and of the head.

    Forward and backward.
    """
    found = []

    def keep(kernel, grid, given, dtype, lengths, called=None, **constants):
        found.append(Launch(kernel, grid, given, dtype, lengths, called or kernel.__name__, constants))

    def weight(*shape):
        return torch.empty(*shape, device="meta", requires_grad=True)

    started, start.start = start.start, keep
    try:
        x, spectral = torch.empty(batch, given, *grid, device="meta"), (2, 2 * modes, modes, channels, channels)
        lift = weight(channels, given), weight(channels)
        first, second = ((weight(*spectral), weight(channels, channels), weight(channels)) for _ in range(2))
        out = fused.fourier_layer(fused_first.lifted_layer(x, *lift, *first, dtype), *second, True)
        wide = weight(2 * channels, channels), weight(2 * channels), weight(1, 2 * channels), weight(1)
        fused_head.head(out, *wide).sum().backward()
    finally:
        start.start = started
    return found


def compiled(launch, tile):
    """Return a launch's kernel for an H100, in a tile."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {"num_warps": tile["num_warps"], "num_stages": tile["num_stages"]}
    constants = launch.constants | {side: value for side, value in tile.items() if side not in {*options, "programs"}}
    signature: dict[str, str] = {}
    aligned = {}
    for at, name in enumerate(launch.kernel.arg_names):
        if name not in constants and launch.given[at] is None:
            constants[name] = None
        if name in constants:
            signature[name] = "constexpr"
        else:
            one = launch.given[at]
            signature[name] = KINDS[one.dtype] if isinstance(one, torch.Tensor) else "i32"
            if isinstance(one, torch.Tensor) or one % 16 == 0:
                aligned[(at,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def main(channels, modes, number_type):
    described = []
    for launch in launches(32, (128, 128), int(channels), int(modes), getattr(torch, number_type)):
        tile, tries = launch.tile, 1
        while (found := compiled(launch, tile)).metadata.shared > SHARED_MEMORY:
            tile, tries = smaller(tile), tries + 1
        narrow = re.search(r"arith\.(muli|trunci) %K\b.* : i32", found.asm["ttir"]) is not None
        described.append({"kernel": launch.called, "shared": found.metadata.shared, "tries": tries})
        described[-1] |= {"tile": tile, "narrow": narrow, "binary": len(found.asm["cubin"])}
    print(json.dumps(described))


if __name__ == "__main__":
    main(*sys.argv[1:])
