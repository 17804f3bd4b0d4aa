"""DeepSpeed's import: quietly, without its own kernels and without a compiler that nothing here needs."""

from __future__ import annotations

import importlib
import warnings
from contextlib import suppress
from typing import Any

import torch

from fmsci.errors import UserError
from fmsci.world import World, prepare_deepspeed


def import_deepspeed(world: World, device: torch.device) -> Any:
    """Import DeepSpeed, which prints and compiles less than it would. Raises UserError where it is not installed."""
    prepare_deepspeed(world, device.type)
    # It calls collectives by their old names, thousands of times.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    try:
        import deepspeed
        import deepspeed.ops
        import deepspeed.utils
    except ImportError as error:
        raise UserError(
            f"engine.kind is zero but DeepSpeed cannot be imported ({error}); install it with: "
            "DS_BUILD_OPS=0 pip install deepspeed, or use engine.kind=ddp"
        ) from None
    _import_muon()
    deepspeed.utils.logger.setLevel("ERROR")
    # Shared-memory all-reduce serves inference alone, and takes minutes to compile at the first use on a CPU.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _import_muon() -> None:
    """Import DeepSpeed's Muon, an optimizer that nothing here uses, without the compiler.

    It wraps its functions in ``torch.compile`` as it is imported, in every start, which imports the compiler: 4 s.
    """
    real = torch.compile
    torch.compile = lambda function=None, **how: function or (lambda one: one)  # type: ignore[assignment]
    try:
        with suppress(ImportError):  # versions before 0.17 have none
            importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        torch.compile = real
