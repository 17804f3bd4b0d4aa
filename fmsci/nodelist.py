"""Slurm's compact host lists, expanded without scontrol (which containers lack)."""

from __future__ import annotations

import itertools
import math
import re

from fmsci.errors import UserError

MAX_HOSTS = 100_000


def expand_nodelist(text: str) -> list[str]:
    """Expand ``"gpu[07-09,12],login1"`` to ``["gpu07", "gpu08", "gpu09", "gpu12", "login1"]``.

    Zero padding is kept, several bracket groups multiply. Raises UserError where the text is not a host list.
    """
    hosts = [host for item in _split(text) for host in _expand(item, text)]
    if not hosts:
        raise UserError("the node list is empty")
    return hosts


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside brackets."""
    items = re.findall(r"(?:[^,\[\]\s]|\[[^\[\]]*\])+", text)
    if ",".join(items) != text:
        raise UserError(f"'{text}' is not a node list such as gpu[01-04,07]")
    return items


def _expand(item: str, text: str) -> list[str]:
    """Expand ``gpu[1-2]n[1,3]``: the text between brackets stays, the numbers in them multiply."""
    pieces = [
        _numbers(piece[1:-1], text) if piece.startswith("[") else [piece]
        for piece in re.findall(r"\[[^\]]*\]|[^\[]+", item)
    ]
    if math.prod(map(len, pieces)) > MAX_HOSTS:
        raise UserError(f"'{text}' is not a node list: it names more than {MAX_HOSTS:,} hosts")
    return ["".join(parts) for parts in itertools.product(*pieces)]


def _numbers(inside: str, text: str) -> list[str]:
    """Expand what stands in brackets: ``07-09,12``."""
    numbers: list[str] = []
    for part in inside.split(","):
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", part)
        if match is None:
            raise UserError(f"'{text}' is not a node list such as gpu[01-04,07]: '{part}' is no number or range")
        first, last = match[1], match[2] or match[1]
        if not 0 <= int(last) - int(first) < MAX_HOSTS:
            raise UserError(f"'{text}' is not a node list: the range '{part}' runs backwards or is too long")
        numbers += [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return numbers
