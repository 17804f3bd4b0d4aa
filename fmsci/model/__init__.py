"""The model: one device, no ranks, plain arguments; also what turns the paper's own weights into one and back."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmsci.model.fno import FNO
    from fmsci.model.operator import SolutionOperator
    from fmsci.model.reference import from_reference, to_reference

__all__ = ["FNO", "SolutionOperator", "from_reference", "to_reference"]

_HOMES = {"FNO": "fno", "SolutionOperator": "operator", "from_reference": "reference", "to_reference": "reference"}


def __getattr__(name: str) -> Any:
    """Import torch only for who asks for a model: sizes and their arithmetic need none."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fmsci.model' has no attribute '{name}'")
    return getattr(import_module(f"fmsci.model.{_HOMES[name]}"), name)
