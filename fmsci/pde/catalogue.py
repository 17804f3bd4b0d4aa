"""The systems there are: one file of this room each, named here."""

from __future__ import annotations

from importlib import import_module

from fmsci.pde.system import System

FILES = (
    "poisson",
    "advection_diffusion",
    "helmholtz",
)

SYSTEMS: dict[str, System] = {name: import_module(f"fmsci.pde.{name}").SYSTEM for name in FILES}
"""Every system by its name, which is that of its file."""

REVISION = 0
"""Raised by hand when the same settings come to make other samples (beyond rounding): a manifest keeps it, and studies
make anew what rests on samples of another. 0 is written nowhere."""
