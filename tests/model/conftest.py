"""The compiled functions of a CPU, for each kind of core, and what they are called for."""

import pytest

from fmsci.model import compiled, mixing, pointwise


@pytest.fixture(params=[8, 16])
def lanes(request, monkeypatch):
    """The functions for a kind of core, where this one can run them."""
    if request.param > compiled.lanes():
        pytest.skip(f"this core has no registers of {request.param} numbers")
    monkeypatch.setattr(compiled, "lanes", lambda: request.param)
    return request.param


@pytest.fixture
def calls(monkeypatch):
    """What they are called for."""
    names = []

    def noted(name, *values):
        names.append(name)
        compiled.call(name, *values)

    for room in (pointwise, mixing):
        monkeypatch.setattr(room, "call", noted)
    return names
