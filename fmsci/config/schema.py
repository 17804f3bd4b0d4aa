"""The base of every typed document, and the sentence that a wrong one gets."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import ConfigDict, ValidationInfo, field_validator

from fmsci.errors import UserError, nearest


class Schema(pydantic.BaseModel):
    """A frozen record that refuses unknown keys, non-finite numbers, true/false for a number, an empty path, and text
    that no file name and no file can hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _means_what_it_says(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name is not None:
            if type(value) in (int, float):  # the quick way through a manifest of a hundred thousand shards
                return value
            annotation = cls.model_fields[info.field_name].annotation
            if not _takes(annotation, bool) and _holds_bool(value):
                raise ValueError("should not be true or false")
            section = isinstance(annotation, type) and issubclass(annotation, Schema)  # it looks after its own fields
            items = (value,) if section else (value, *_items(value))
            if any(isinstance(item, str) and not _can_be_written(item) for item in items):
                raise ValueError("should be text without null or broken characters")
            if value == "" and _takes(annotation, Path):
                raise ValueError("should not be empty")
        return value


class Open(Schema):
    """A record to which later versions may add: keys that this one does not know are passed over."""

    model_config = ConfigDict(extra="ignore")


def _takes(annotation: Any, kind: type) -> bool:
    """Tell whether a value of ``kind`` has a place in an annotation; a Schema inside it looks after its own fields."""
    if annotation in (kind, Any) or isinstance(annotation, kind):
        return True
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        return True
    return any(_takes(inner, kind) for inner in typing.get_args(annotation))


def _holds_bool(value: Any) -> bool:
    return isinstance(value, bool) or any(isinstance(item, bool) for item in _items(value))


def _items(value: Any) -> Iterable[Any]:
    """Return what is directly inside a value; of a mapping its keys too."""
    if isinstance(value, dict):
        return (*value, *value.values())
    return value if isinstance(value, (list, tuple)) else ()


def _can_be_written(text: str) -> bool:
    """Tell whether a file name and a file of UTF-8 can hold a text: it has no null, and no half of a character."""
    if text.isascii():
        return "\0" not in text
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def text_names(document: Any, *sections: str) -> Any:
    """Return a document in which the keys of these sections are text: YAML reads an unquoted 1e3 or 16 as a number."""
    if isinstance(document, dict):
        for section in sections:
            if isinstance(document.get(section), dict):
                document = document | {section: {str(name): value for name, value in document[section].items()}}
    return document


S = TypeVar("S", bound=Schema)


def parse(cls: type[S], document: Any, where: str) -> S:
    """Return ``document`` as an instance of ``cls``.

    Raises UserError with one sentence: the place, the key, what was given, what is allowed, the nearest right name.
    """
    if not isinstance(document, Mapping):
        raise UserError(f"{where}: a mapping of keys to values is needed, not {_shown(document)}")
    try:
        return cls.model_validate(document)
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {_sentence(cls, error)}") from None


def _sentence(cls: type[Schema], error: pydantic.ValidationError) -> str:
    """Say the first problem of a validation error (unknown keys first: they explain missing ones)."""
    unknown = {"extra_forbidden", "invalid_key"}
    problem = min(error.errors(), key=lambda problem: problem["type"] not in unknown)
    location = tuple(_keys(cls, problem["loc"]))
    key = _cut(".".join(str(part) for part in location), 200)
    if problem["type"] in unknown:
        allowed = allowed_keys(cls, location[:-1])
        return f"unknown setting '{key}'{_meant(cls, location, allowed)}; allowed here: {', '.join(allowed)}"
    if problem["type"] == "missing" and isinstance(location[-1], int):
        given, number = _shown(problem["input"]), location[-1] + 1
        return f"'{key.rpartition('.')[0]}' is {given} but should have at least {number} item{'s'[: number - 1]}"
    if problem["type"] == "missing":
        return f"the setting '{key}' is missing"
    if not key:
        return problem["msg"].removeprefix("Value error, ")
    return f"'{key}' is {_shown(problem['input'])} but {_reason(problem, allowed_keys(cls, location))}"


def _reason(problem: Any, allowed: list[str]) -> str:
    """Say what is allowed in words that do not speak of Python."""
    kind = str(problem["type"])
    if kind.startswith("model_"):
        return f"should be a section of settings; allowed in it: {', '.join(allowed)}"
    if kind in {"too_short", "too_long"}:
        bound = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        number = problem["ctx"][bound[1]]
        return f"should have {bound[0]} {number} item{'' if number == 1 else 's'}"
    wanted = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text"}
    wanted |= {"path": "a path", "tuple": "a list", "list": "a list", "dict": "a section of keys and values"}
    family, _, which = kind.partition("_")
    if family in wanted and (which in {"type", "parsing", "from_float"}):
        return f"should be {wanted[family]}"
    return str(problem["msg"]).removeprefix("Value error, ").replace("Input should", "should")


def _meant(cls: type[Schema], location: tuple[int | str, ...], allowed: list[str]) -> str:
    """Guess the wanted name of an unknown one: nested but written flat, set in the wrong section, or misspelt."""
    name = str(location[-1])
    dotted = list(_dotted_keys(cls))
    if name in dotted:
        section, _, inside = name.rpartition(".")
        return f" (write '{inside}' inside '{section}')"
    elsewhere = [key for key in dotted if key.rpartition(".")[2] == name]
    return f" (did you mean '{elsewhere[0]}'?)" if len(elsewhere) == 1 else nearest(name, allowed)


def _keys(cls: type[Schema], location: tuple[int | str, ...]) -> Iterator[int | str]:
    """Yield the parts of a location that a user wrote, without the names that pydantic gives to branches of unions."""
    current: Any = cls
    for part in location:
        inside = _inside(current, part)
        if inside is not None:
            yield part
            current = inside


def _inside(annotation: Any, part: int | str) -> Any:
    """Return the type of what ``part`` names in a section, mapping or list; None where it names nothing there."""
    inner = [_plain(argument) for argument in typing.get_args(annotation) if argument is not ...]
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        field = annotation.model_fields.get(str(part))
        return Any if field is None else _plain(field.annotation)
    if typing.get_origin(annotation) is dict:
        return inner[1]
    if typing.get_origin(annotation) in (tuple, list) and isinstance(part, int):
        return inner[min(part, len(inner) - 1)]
    return None


def _plain(annotation: Any) -> Any:
    """Return X for ``X | None`` and ``Annotated[X, ...]``."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _plain(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(annotation) if part is not type(None)]
        return _plain(inner[0]) if len(inner) == 1 else annotation
    return annotation


def _shown(value: Any) -> str:
    """Return a value as the user wrote it, cut where it is long."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    try:
        text = repr(value) if isinstance(value, (str, int, float, list, tuple, dict)) else str(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return _cut(text, 60)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _dotted_keys(cls: type[Schema], prefix: str = "") -> Iterator[str]:
    """Yield the settings inside the sections of ``cls``: ``optim.lr``."""
    for name, field in cls.model_fields.items():
        if prefix:
            yield prefix + name
        section = _plain(field.annotation)
        if isinstance(section, type) and issubclass(section, Schema):
            yield from _dotted_keys(section, f"{prefix}{name}.")


def allowed_keys(cls: type[Schema], location: tuple[int | str, ...] = ()) -> list[str]:
    """Return the setting names that ``cls`` allows at a place, such as ``("optim",)``."""
    current: Any = cls
    for part in location:
        current = _inside(current, part)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, Schema) else []
