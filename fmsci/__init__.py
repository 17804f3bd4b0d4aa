"""fmsci: from equations to a pretrained, fine-tuned and measured neural operator.

As a library: ``fmsci.load(PATH).solve(source, ...)``, ``fmsci.pde.solve(system, source, ...)``, ``fmsci.model``. What
needs torch or numpy is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmsci import model, pde
    from fmsci.errors import ArgumentError, UserError
    from fmsci.library.model import Model, TrainingRangeWarning, load
    from fmsci.library.share import from_hub, push

__version__ = "0.1.0"
__all__ = [
    "ArgumentError",
    "Model",
    "TrainingRangeWarning",
    "UserError",
    "from_hub",
    "load",
    "model",
    "pde",
    "push",
]

_HOMES = {
    "ArgumentError": "fmsci.errors",
    "UserError": "fmsci.errors",
    "Model": "fmsci.library.model",
    "TrainingRangeWarning": "fmsci.library.model",
    "load": "fmsci.library.model",
    "from_hub": "fmsci.library.share",
    "push": "fmsci.library.share",
}


def __getattr__(name: str) -> Any:
    """Import only for who asks."""
    if name in ("model", "pde"):
        return import_module(f"fmsci.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'fmsci' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
