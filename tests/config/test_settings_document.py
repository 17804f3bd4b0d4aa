"""docs/settings.md has every setting with its type, its default and its meaning, as the code has them, and no other."""

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic.fields import FieldInfo

from fmsci.config import (
    GenerateSettings,
    NodeSettings,
    PipelineSettings,
    ScalingSettings,
    Schema,
    SiteSettings,
    StudySettings,
    TrainSettings,
    load_settings,
)
from fmsci.config.scaling import LinkSettings
from fmsci.config.sections import EngineSettings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/settings.md"
CLASSES: dict[str, type[Schema]] = {
    "`fmsci train`": TrainSettings,
    "`fmsci generate`": GenerateSettings,
    "`fmsci study`": StudySettings,
    "`fmsci scaling`": ScalingSettings,
    "`fmsci submit pipeline`": PipelineSettings,
    "Sites": SiteSettings,
}
"""By the heading of its part of the page."""

ONCE: dict[type[Schema], str] = {EngineSettings: "engine", LinkSettings: "network.inside", NodeSettings: "gpu_nodes"}
"""Sections that are in several places: what is in them is told in this one."""

NO_BOUND = 1e6
"""Bounds from here on only keep numbers finite."""


def rows(cls: type[Schema], prefix: str = "") -> Iterator[tuple[str, str, str, str | None]]:
    """Yield setting, type, default and meaning of all that a class has, section by section."""
    for name, field in cls.model_fields.items():
        place = f"{prefix}{name}"
        inner, inside = section_in(field.annotation, place)
        told_in = inside if inner is None else ONCE.get(inner, inside)
        if inner is None or field.description is not None:
            words = kind(field.annotation, field.metadata)
            if told_in != inside:
                words = words.replace("section", f"section as {told_in}")
            yield place, words, "" if field.annotation is inner else default_of(field), field.description
        if inner is not None and told_in == inside:
            yield from rows(inner, f"{inside}.")


def section_in(annotation: Any, place: str) -> tuple[type[Schema] | None, str]:
    """Return the class of the sections that a setting holds, and the place of one of them; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        return annotation, place
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict:
        return section_in(arguments[1], f"{place}.NAME")
    if origin is tuple:
        return section_in(arguments[0], f"{place}[]")
    for argument in arguments if origin is not Literal else ():
        found = section_in(argument, place)
        if found[0] is not None:
            return found
    return None, place


def kind(annotation: Any, bounds: Any = ()) -> str:
    """Say what a setting may be, in the words of the page."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind(arguments[0], [one for part in arguments[1:] for one in getattr(part, "metadata", [part])])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(kind(one) for one in arguments if one is not type(None))
    if origin is Literal:
        return " / ".join(map(str, arguments))
    if origin is dict:
        return f"{{{kind(arguments[0]).replace('text', 'name')}: {kind(arguments[1])}}}"
    if origin is tuple:
        return "[" + ", ".join("..." if one is Ellipsis else kind(one) for one in arguments) + "]"
    if annotation in (int, float):
        return number("whole number" if annotation is int else "number", bounds)
    if issubclass(annotation, Schema):
        return "section"
    return {str: "text", bool: "true / false", Path: "path"}[annotation]


def number(word: str, bounds: Any) -> str:
    known = {
        name: getattr(one, name)
        for one in bounds
        for name in ("ge", "gt", "le", "lt")
        if abs(getattr(one, name, NO_BOUND)) < NO_BOUND
    }
    if known == {"ge": 1}:
        return "count"
    if set(known) == {"ge", "le"}:
        return f"{word} from {known['ge']} to {known['le']}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return " ".join([word, *(f"{words[name]} {value}" for name, value in known.items())])


def default_of(field: FieldInfo) -> str:
    return "needed" if field.is_required() else shown(field.get_default(call_default_factory=True))


def shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, Schema):
        return shown(value.model_dump(exclude_unset=True))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


PARTS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("heading", CLASSES)
def test_every_setting_is_told_as_the_code_has_it(heading: str) -> None:
    lines = [line for line in PARTS[heading].splitlines() if line.startswith("| `")]
    told = {
        cells[0]: cells[1:]
        for cells in ([cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines)
    }
    assert len(told) == len(lines), "a setting is told twice"
    wanted = {name: (kind, default, meaning) for name, kind, default, meaning in rows(CLASSES[heading])}
    assert list(told) == list(wanted)
    for name, (kind, default, meaning) in wanted.items():
        line = [kind, default, told[name][2] if meaning is None else meaning.replace("`", "")]
        assert told[name] == line, f"| `{name}` | {' | '.join(line)} |"
        assert line[2], f"{name}: what does it mean?"


def test_every_part_of_the_page_with_settings_is_one_of_these() -> None:
    assert {heading for heading, text in PARTS.items() if "| `" in text} == set(CLASSES)


def test_a_file_stands_on_its_base_as_the_page_says(tmp_path: Path) -> None:
    """The two files of the page, side by side: sections merge key by key, anything else is replaced."""
    blocks = re.findall(r"^<!-- file: (\S+) -->\n```yaml\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert [name for name, _ in blocks] == ["common.yaml", "wide.yaml"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    common, wide = (load_settings(TrainSettings, tmp_path / name) for name, _ in blocks)
    assert (wide.optim.epochs, wide.data.path) == (common.optim.epochs, common.data.path)
    assert (wide.model.width, wide.optim.batch_size) != (common.model.width, common.optim.batch_size)
    assert load_settings(TrainSettings, tmp_path / "wide.yaml", ["optim.lr=1e-3"]).optim.lr == 1e-3
