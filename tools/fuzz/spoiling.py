"""Ways to spoil what is whole. A change of a document (YAML, JSON) sets, removes, adds or doubles one key at a place
that a number chooses; a change of bytes flips, cuts, doubles or inserts some; a file becomes a pipe or a link."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st

SECRET = 12345.678
"""The number in a file outside of every folder: samples that hold it came from where they must not."""
VICTIM = "what no case may change"


@dataclass(frozen=True)
class Target:
    """One kind of file."""

    name: str
    cases: st.SearchStrategy[Any]
    make: Callable[[Any, Path], None]
    """Put a case into an empty folder."""
    use: Callable[[Path, Any], Any]
    """What the commands do with it; raises UserError where it is refused."""
    check: Callable[[Any, Path, Any], None]
    """Hold what was accepted against what the case says."""


NUMBERS = st.sampled_from([0, -1, 1, 2, 7, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, 0.5, -0.0, 1e-320, 1e39, 1e308])
NASTY = ["", " ", "\0", "a\nb", "../../etc/passwd", "/etc/passwd", "..", "~", "x" * 5000, "nan", "1e3", "0x10", "1_000"]
NASTY += [
    "!!python/object/apply:os.system [id]",
    "$(id)",
    "{}",
    "null",
    "train",
    "\ud7ff",
    "é",
    "-",
    "a.b",
    "__class__",
]
WORDS = st.sampled_from(NASTY)
PLAIN = st.none() | st.booleans() | NUMBERS | st.sampled_from([math.inf, math.nan]) | WORDS
PLAIN |= st.integers() | st.floats()
JUNK = st.recursive(
    PLAIN | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
DOCUMENT = st.tuples(st.sampled_from(["set", "set", "set", "remove", "add", "scale"]), st.integers(0, 400), JUNK)
BYTES = st.tuples(
    st.sampled_from(["flip", "cut", "end", "insert", "double"]),
    st.floats(0, 1, exclude_max=True),
    st.binary(min_size=1, max_size=9),
)


SPECIAL = st.sampled_from(["pipe", "device", "link", "lost", "folder", "gone"])


def replaced(path: Path, how: str, victim: Path) -> None:
    """Put something else in the place of a file: a pipe, a device, a link (to a file that nobody may change, or to
    nothing), a folder, nothing."""
    path.unlink(missing_ok=True)
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how != "gone":
        path.symlink_to({"device": Path("/dev/zero"), "link": victim, "lost": victim.parent / "lost"}[how])


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container with a key in it."""
    pairs = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(pairs):
        yield document, key
        yield from places(value)


def changed(document: Any, change: tuple[str, int, Any]) -> Any:
    """Return a copy of a document with one change."""
    kind, number, value = change
    copy = json.loads(json.dumps(document))
    found = list(places(copy))
    if not found:
        return value
    container, key = found[number % len(found)]
    if kind == "remove":
        container.pop(key)
    elif kind == "add" and isinstance(container, dict):
        container[str(value)[:40]] = value
    elif kind == "scale" and isinstance(container[key], (int, float)):
        container[key] = -container[key] if number % 3 == 0 else container[key] * 10 ** (number % 7)
    else:
        container[key] = value
    return copy


def spoilt(content: bytes, change: tuple[str, float, bytes]) -> bytes:
    """Return bytes with one change."""
    kind, where, new = change
    at = int(where * len(content))
    head, tail = content[:at], content[at:]
    if kind == "flip":
        return head + bytes(a ^ b for a, b in zip(tail, new, strict=False)) + tail[len(new) :]
    if kind == "cut":
        return head + tail[len(new) * 7 :]
    if kind == "double":
        return head + tail[: len(new)] + tail
    return head if kind == "end" else head + new + tail


def as_json(value: Any) -> str:
    """Return JSON as Python writes it, with NaN, and with whole numbers of any length."""
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value)
    finally:
        sys.set_int_max_str_digits(4300)


def rewritten(path: Path, kind: str, changes: Any) -> bytes:
    """Return the content of a file after changes to its bytes, its document or its tensors."""
    content, tensors = path.read_bytes() if path.exists() else b"", path.suffix == ".safetensors"
    if kind == "tensors":
        return retensored(content, changes) if tensors else b""
    if kind == "document":
        if tensors:
            return content
        if path.suffix not in {".json", ".yaml", ""} or not content:
            return content + b"".join(as_json(value).encode(errors="surrogatepass") + b"\n" for *_, value in changes)
        document = yaml.safe_load(content)
        for change in changes:
            document = changed(document, change)
        return as_json(document).encode(errors="surrogatepass")
    for change in changes:
        content = spoilt(content, change)
    return content


def retensored(content: bytes, how: str) -> bytes:
    """Return a safetensors file with one tensor changed."""
    from safetensors.numpy import load, save

    tensors = load(content)
    name = sorted(tensors)[len(tensors) // 2]
    value = tensors.pop(name)
    if how == "rename":
        tensors[name + "x"] = value
    elif how == "shape":
        tensors[name] = np.zeros((*value.shape, 2), value.dtype)
    elif how == "type":
        tensors[name] = value.astype(np.float64)
    elif how == "nan":
        tensors[name] = np.full_like(value, np.nan)
    elif how == "add":
        tensors |= {name: value, "extra": value}
    elif how == "step":
        tensors |= {key: np.array(-5, old.dtype) for key, old in tensors.items() if key.startswith("step.")}
        tensors[name] = value
    return save(tensors)
