"""Files of measured scaling points."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from spoiling import BYTES, DOCUMENT, SPECIAL, replaced, rewritten

POINTS = st.one_of(
    st.tuples(st.just("document"), st.lists(DOCUMENT, min_size=1, max_size=2)),
    st.tuples(st.just("document"), st.lists(DOCUMENT, min_size=1, max_size=2)),
    st.tuples(st.just("bytes"), st.lists(BYTES, min_size=1, max_size=2)),
    st.tuples(st.just("special"), SPECIAL),
)
SETTINGS = {"world_sizes": [1], "weak": [8], "models": ["1M"], "grid": 64}
LINKS = {name: {"gbytes_s": 10, "latency_us": 5} for name in ("inside", "between")}


class MeasuredPoints:
    """Steps of a model on 1 and 2 ranks as their files tell them, and what is done to copies of that."""

    def __init__(self, place: Path) -> None:
        self.whole = place / "points.json"
        times = {"step_s": 0.04, "low_s": 0.03, "high_s": 0.05, "alone_s": 0.03, "update_s": 0.002, "wait_s": 0.0}
        points = []
        for ranks, batch in ((1, 1), (1, 8), (1, 32), (2, 8), (2, 16)):
            point = {"world_size": ranks, "model": "1M", "engine": "ddp", "how": {}, "batch": batch, "grid": 64}
            point |= {"coefficients": 3, "limit_mbit": None, "data": None}
            known = {name: value * (1 + batch / ranks) for name, value in times.items()}
            points.append({"point": point, "nodes": 1, "device": "a", **known, "memory_bytes": 1 << 28})
        self.whole.write_text(json.dumps(points))

    def make(self, case: Any, place: Path) -> None:
        """Put the points of a case at ``place``/points.json."""
        kind, changes = case
        path = place / "points.json"
        path.write_bytes(self.whole.read_bytes())
        if kind == "special":
            replaced(path, changes, place.parent / "victim")
        else:
            path.write_bytes(rewritten(path, kind, changes))

    def use(self, place: Path, case: Any) -> Any:
        """Make curves and a projection of them, as ``fmsci scaling CONFIG report`` and ``plan`` do."""
        from fmsci.config import ScalingSettings, parse
        from fmsci.scaling.measured import efficiency, load_measured, series
        from fmsci.scaling.project import project

        document = SETTINGS | {"run": str(place / "run"), "measured": [str(place / "points.json")], "network": LINKS}
        settings = parse(ScalingSettings, document, "settings")
        curves = series(load_measured(settings), settings.weak, settings.strong)
        return [efficiency(curve) for curve in curves.values()], project(settings, "1,2,4", 2, "1M", "fp32", None)

    def check(self, found: Any, place: Path, case: Any) -> None:
        """Every figure is a number that a time can be."""
        efficiencies, projection = found
        figures = [value for curve in efficiencies for value in curve]
        for rows in projection.tables.values():
            assert len(rows) == 3
            figures += [figure for row in rows for figure in (row.step_s, row.compute_s, row.efficiency)]
        assert all(math.isfinite(value) and value > 0 for value in figures), f"no times: {figures}"
