"""Read settings from YAML and ``key.sub=value`` overrides, and write them back. The only importer of yaml."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Hashable, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fmsci.config.scaling import ScalingSettings
from fmsci.config.schema import Schema, parse
from fmsci.config.sections import GenerateSettings, TrainSettings
from fmsci.config.study import StudySettings
from fmsci.errors import SettingsError, UserError
from fmsci.files import regular_file

S = TypeVar("S", bound=Schema)

VERBS: dict[str, type[Schema]] = {
    "generate": GenerateSettings,
    "train": TrainSettings,
    "study": StudySettings,
    "scaling": ScalingSettings,
}

LARGEST_BYTES = 1 << 20
"""The most that a settings file may hold; people write a thousandth of it."""

DEEPEST = 100
"""The most sections inside each other."""

MOST_VALUES = 100_000
"""The most values that a document may come to when its aliases are written out."""

SHOWN_CHARACTERS = 200
"""So much of the overrides is repeated in a sentence about them."""

NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""What the parser raises: its own errors, and those of Python where a tag or a date is nonsense (``2001-99-01``)."""


class _Named(io.StringIO):
    """A text with the name of its file, for the parser's messages."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key given twice (plain YAML silently keeps the last), aliases and nesting without
    end."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count how deep it is: the parser takes the square of that in time."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise SettingsError(f"more than {DEEPEST} sections are inside each other; is it the right file?")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        """Nine lines of aliases can stand for a billion values: count them before anything is made of them."""
        if _num_values(node, {}) > MOST_VALUES:
            raise SettingsError(f"its aliases stand for more than {MOST_VALUES:,} values; write out what is meant")
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: what it brings may be given again
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise SettingsError(f"a list or a section stands where a key should be{_at(key_node)}; keys are names")
            if key in keys:
                raise SettingsError(f"the key '{key}' is given twice{_at(key_node)}; keep one")
            keys.add(key)
        return super().construct_mapping(node, deep)  # type: ignore[arg-type] # it refuses other nodes itself


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node stands for, each alias counted in full; endless where it holds itself."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # what it is found to be inside itself
        items = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for item in items for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(node)]


def _at(node: yaml.Node) -> str:
    mark = node.start_mark
    return f" (line {mark.line + 1} of {mark.name})" if mark is not None and not mark.name.startswith("<") else ""


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file; UserError where it is missing or is not YAML."""
    try:
        with regular_file(path).open("rb") as stream:
            content = stream.read(LARGEST_BYTES + 1)
        if len(content) > LARGEST_BYTES:
            raise SettingsError(f"the settings file {path} has more than {LARGEST_BYTES:,} bytes; is it the right one?")
        return yaml.load(_Named(content.decode(), str(path)), Loader=_UniqueKeys)
    except SettingsError as error:
        raise SettingsError(str(error) if str(path) in str(error) else f"the settings file {path}: {error}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"there is no settings file {path}; give the path of a YAML file, such as those in configs/"
        ) from None
    except OSError as error:
        raise UserError(f"the settings file {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"the settings file {path} is no text: {error}") from None
    except NOT_YAML as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"the settings file {path} is not YAML: {reason}") from None


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set one ``key.sub=value`` in a nested mapping; the value is read as YAML (numbers, null, lists)."""
    key, separator, text = override.partition("=")
    parts = key.split(".")
    if not separator or not all(parts):
        raise SettingsError(f"'{override[:SHOWN_CHARACTERS]}' is not a setting; write key=value or key.sub=value")
    try:
        value = deepcopy(_as_yaml(text))
    except SettingsError as error:
        raise SettingsError(f"'{override[:SHOWN_CHARACTERS]}': {error}") from None
    target = document
    for part, inside in itertools.pairwise(parts):
        inner = target.setdefault(part, {})
        if inner is None:
            inner = target[part] = {}
        if not isinstance(inner, dict):
            raise SettingsError(
                f"'{override[:SHOWN_CHARACTERS]}': '{part}' is no section, so it has no '{inside}' inside"
            )
        target = inner
    target[parts[-1]] = value


@lru_cache(maxsize=1024)
def _as_yaml(text: str) -> Any:
    """Read the value of an override, or take it as text. The thousands of runs of a study have the same few."""
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except SettingsError:
        raise
    except NOT_YAML:
        return text


def assign(key: str, path: Path) -> str:
    """Return ``key=path`` as an override that is read back as this very path, whatever its name looks like."""
    try:
        plain = yaml.load(str(path), Loader=_UniqueKeys) == str(path)
    except (SettingsError, *NOT_YAML):
        plain = False
    return f"{key}={path if plain else json.dumps(str(path), ensure_ascii=False)}"


def load_settings(cls: type[S], path: Path | None, overrides: Sequence[str] = ()) -> S:
    """Return the settings in ``path`` (or none), on top of the file that it names as ``base``, below the overrides.

    Raises UserError: missing file, not YAML, unknown key, wrong type or range, each as one sentence.
    """
    document = {} if path is None else _read_document(path)
    where = "the command line" if path is None else str(path)
    written = frozenset(map(str, document))
    for override in overrides:
        apply_override(document, override)
    if path is not None and overrides:
        given = " ".join(overrides)
        where += " with " + (given if len(given) <= SHOWN_CHARACTERS else given[: SHOWN_CHARACTERS - 3] + "...")
    try:
        return parse(cls, document, where)
    except UserError as error:
        other = None if path is None else _verb_of(written)
        if other is not None and not issubclass(cls, VERBS[other]):
            raise SettingsError(f"{path} is a file for fmsci {other}; give one that fits this command") from None
        raise SettingsError(str(error)) from None


def read_document(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return a settings file on top of its ``base``, below the overrides, before anything is checked."""
    document = _read_document(path)
    for override in overrides:
        apply_override(document, override)
    return document


def with_overrides(settings: S, overrides: Sequence[str], where: str) -> S:
    """Return settings with ``key.sub=value`` on top; ``where`` is said in the sentence about a wrong one."""
    document = settings.model_dump(mode="json", exclude_unset=True)
    for override in overrides:
        apply_override(document, override)
    try:
        return parse(type(settings), document, where)
    except UserError as error:
        raise SettingsError(str(error)) from None


def _read_document(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a settings file as a mapping: on top of the file beside it that it names as ``base``, where it does.

    Sections are merged key by key; anything else replaces what the base says.
    """
    document = read_yaml(path)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: settings are 'key: value' lines, not {type(document).__name__}")
    base = document.pop("base", None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise SettingsError(f"{path}: 'base' should be the path of a settings file, as seen from this one")
    if path.resolve() in above:
        raise SettingsError(f"{path}: 'base' leads back to this file; leave one of them out")
    return _merged(_read_document(path.parent / base, (*above, path.resolve())), document)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _verb_of(keys: frozenset[str]) -> str | None:
    """Return the verb whose settings these are: it knows every key, and none that it needs is missing."""
    for verb, cls in VERBS.items():
        needed = {name for name, field in cls.model_fields.items() if field.is_required()}
        if needed <= keys <= cls.model_fields.keys():
            return verb
    return None


def dump_settings(settings: Schema) -> str:
    """Return settings as YAML text that :func:`load_settings` reads back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
