"""Slurm's compact host lists, expanded without scontrol (which containers lack)."""

from __future__ import annotations

import re

from fmsci.errors import UserError

MAX_HOSTS = 100_000


def expand_nodelist(text: str) -> list[str]:
    """Expand ``"gpu[07-09,12],login1"`` to ``["gpu07", "gpu08", "gpu09", "gpu12", "login1"]``.

    Zero padding is kept, several bracket groups multiply. Raises UserError where the text is not a host list.
    """
    hosts = [host for item in _split(text) for host in _expand(item, text)]
    if not hosts:
        raise UserError(f"the node list '{text}' names no host")
    return hosts


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside brackets."""
    items = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    if ",".join(items) != text:
        raise UserError(f"'{text}' is not a node list such as gpu[01-04,07]")
    return items


def _expand(item: str, text: str) -> list[str]:
    head, bracket, rest = item.partition("[")
    if not bracket:
        return [item]
    inside, _, tail = rest.partition("]")
    tails = _expand(tail, text) if tail else [""]
    hosts: list[str] = []
    for part in inside.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise UserError(f"'{text}' is not a node list such as gpu[01-04,07]: '{part}' is no number or range")
        first, last = match[1], match[2] or match[1]
        if not 0 <= int(last) - int(first) < MAX_HOSTS:
            raise UserError(f"'{text}' is not a node list: the range '{part}' runs backwards or is too long")
        numbers = range(int(first), int(last) + 1)
        hosts += [f"{head}{number:0{len(first)}d}{end}" for number in numbers for end in tails]
    return hosts
