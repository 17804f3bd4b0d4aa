"""The base of every typed document, and the sentence that a wrong one gets. The only importer of pydantic."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic
from pydantic import ConfigDict, ValidationInfo, field_validator

from fmsci.errors import UserError, nearest


class Schema(pydantic.BaseModel):
    """A frozen record that refuses unknown keys, non-finite numbers, and true/false where a number is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name is not None:
            annotation = cls.model_fields[info.field_name].annotation
            if annotation is not bool and bool not in typing.get_args(annotation):
                raise ValueError("should not be true or false")
        return value


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
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    location = tuple(part for part in problem["loc"] if not _is_union_branch(part))
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        allowed = allowed_keys(cls, location[:-1])
        return f"unknown setting '{key}'{nearest(str(location[-1]), allowed)}; allowed here: {', '.join(allowed)}"
    if problem["type"] == "missing":
        return f"the setting '{key}' is missing"
    reason = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if not key:
        return reason
    return f"'{key}' is {_shown(problem['input'])} but {reason}"


def _is_union_branch(part: int | str) -> bool:
    """Tell whether a location part names a branch of a union (``int``, ``function-before[...]``), not a key."""
    return isinstance(part, str) and (part in {"int", "float", "str", "bool", "path"} or "[" in part)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def allowed_keys(cls: type[Schema], location: tuple[int | str, ...] = ()) -> list[str]:
    """Return the setting names that ``cls`` allows at a place, such as ``("optim",)``."""
    current: Any = cls
    for part in location:
        if not (isinstance(current, type) and issubclass(current, Schema)) or part not in current.model_fields:
            return []
        current = _section(current.model_fields[str(part)].annotation)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, Schema) else []


def _section(annotation: Any) -> Any:
    """Return the Schema inside ``X``, ``X | None``."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Schema):
            return candidate
    return None
