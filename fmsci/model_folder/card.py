"""The card of a model: README.md of its folder, with the head that model hubs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fmsci.model_folder.documents import ConfigDocument, RangeDocument


def card(config: ConfigDocument) -> str:
    """Return the card: what the model is, what it was trained on, its measured errors, where it can be trusted."""
    arch, ranges = config.architecture, config.training_range
    return (
        f"{_head(config)}# Fourier neural operator, {config.num_parameters:,} parameters\n\n"
        f"Maps a source field and the coefficients {', '.join(config.coefficients)} to the solution field.\n"
        f"Width {arch.width}, modes {arch.modes}, layers {arch.layers}.\n\n"
        f"{_use(config)}"
        f"## Trained on\n\n{_lines(config.trained_on)}{_ranges(ranges)}\n"
        f"## Measured\n\n{_measured(config.measured)}\n"
        f"## Limits\n\n{_limits(config)}"
    )


def _head(config: ConfigDocument) -> str:
    """Return the YAML that hubs read; JSON strings are YAML strings, whatever is in them."""
    systems = config.training_range.systems if config.training_range else ()
    tags = ["fourier-neural-operator", "pde", *systems]
    lines = ["---", "library_name: fmsci", "tags:", *(f"- {json.dumps(tag)}" for tag in tags)]
    error = config.measured.get("valid_rel_l2")
    if isinstance(error, float):
        data = json.dumps(str(config.trained_on.get("data")))
        lines += ["model-index:", "- name: fmsci", "  results:", "  - task:", "      type: pde-solution"]
        lines += ["    dataset:", f"      name: {data}", f"      type: {data}", "      split: validation"]
        lines += ["    metrics:", "    - type: relative-l2", f"      value: {error}"]
    return "\n".join([*lines, "---", "", ""])


def _use(config: ConfigDocument) -> str:
    given = ", ".join(f"{name}=..." for name in config.coefficients)
    return (
        "## Use\n\n```python\nimport fmsci\n\n"
        f'model = fmsci.load("PATH OF THIS FOLDER")\nu = model.solve(source, {given})\n```\n\n'
    )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def _lines(facts: Mapping[str, Any]) -> str:
    return "".join(f"- {name}: {_shown(value)}\n" for name, value in facts.items() if value is not None)


def _measured(facts: Mapping[str, Any]) -> str:
    if not facts:
        return "Nothing yet: `fmsci evaluate` measures the errors.\n"
    return f"{_lines(facts)}\nErrors are relative L2 errors, means over the samples of the validation split.\n"


def _ranges(ranges: RangeDocument | None) -> str:
    if ranges is None:
        return ""
    low, high = ranges.source_norm
    rows = [f"| {name} | {first:.4g} | {last:.4g} |" for name, (first, last) in ranges.coefficients.items()]
    rows = ["", "| | from | to |", "|---|---|---|", *rows, f"| L2 norm of the source | {low:.4g} | {high:.4g} |"]
    return f"- systems: {', '.join(ranges.systems)}\n- grid: {ranges.grid} x {ranges.grid}\n" + "\n".join(rows) + "\n"


def _limits(config: ConfigDocument) -> str:
    least = 2 * config.architecture.modes
    known = "of the table above" if config.training_range else "that it was trained on"
    return (
        f"Periodic unit square, constant coefficients, a grid of at least {least} x {least}. Errors grow outside the\n"
        f"ranges {known}; there `solve` warns. Nothing is known of sources that look unlike those of training.\n"
    )
