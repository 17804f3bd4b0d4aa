"""Indefinite reaction and diffusion, SYS-3(o1, o2).

    -0.01 lap u - w u = f,      w an integer, each of o1 .. o2 equally often

The mean of f is kept. Columns: (k11, w); the first is 0.01 and stands for k11 = k22, with k12 = 0.

The operator is INDEFINITE: near a resonance w = 0.01 (2 pi)^2 (kx^2 + ky^2) solutions are huge. A draw with max|u| >
2 is therefore rejected. By default it is drawn again as a whole, as in the paper, which makes a w near a resonance
rarer than others. Options:

    w = continuous      w ~ U[o1, o2]
    redraw = source     a rejected draw keeps its w and takes a new source; after 1,000 of them w is drawn anew too

Source: arXiv 2306.00258, section 3 (SYS-3); the sign of w and the limit on u are the published code's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fmsci.pde.grid import Real
from fmsci.pde.poisson import DIFFUSIVITY
from fmsci.pde.system import Draw, Drawn, System, check_increasing

WIDEST_RANGE = 1000
"""Accepted and rejected draws are counted for every whole number of the range."""


def draw(d: Draw) -> Drawn:
    """Return (k11, w) (B, 2) from one uniform number."""
    if d.options["w"] == "continuous":
        w = d.low + (d.high - d.low) * d.uniforms[:, 0]
    else:
        w = np.minimum(np.floor(d.low + (d.high - d.low + 1) * d.uniforms[:, 0]), d.high)
    return Drawn(np.stack([np.full_like(w, DIFFUSIVITY), w], axis=1).astype(np.float32))


def observe(columns: Real, source: Real) -> Real:
    """Return w (B,)."""
    return columns[:, 1]


def check_range(low: float, high: float, options: Mapping[str, str]) -> str | None:
    """Whole numbers, unless w is continuous; not negative: the paper has no other, and the counts go by whole
    numbers."""
    wrong = check_increasing(low, high, 0.0, strictly=False)
    if wrong is None and high - low > WIDEST_RANGE:
        return f"it is at most {WIDEST_RANGE} wide, got {high - low:g}"
    if wrong is None and options["w"] == "integer" and not (low.is_integer() and high.is_integer()):
        return f"w is a whole number, so both ends must be, got {low:g} and {high:g}; or set options.w=continuous"
    return wrong


SYSTEM = System(
    name="helmholtz",
    columns=("k11", "w"),
    stands_for=(("k11", "k22"), ("w",)),
    num_uniforms=1,
    draw=draw,
    observe=observe,
    check_range=check_range,
    keep_mean=True,
    max_solution=2.0,
    tally="w",
    options={"w": ("integer", "continuous"), "redraw": ("all", "source")},
)
