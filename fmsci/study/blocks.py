"""What a report is made of, and its two forms: Markdown, and one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 60rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #d0d7de; padding-bottom: .2rem; }
p { margin: .5rem 0; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #d0d7de; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #8c959f; }
td.missing { color: #9a3412; font-style: italic; }
.notice { border-left: 4px solid #d97706; background: #fff7ed; padding: .4rem .8rem; }
figure { margin: 1rem 0; }
figure img { width: 100%; max-width: 46rem; height: auto; display: block; }
figcaption { font-size: .9rem; color: #57606a; }
pre { font-size: .8rem; background: #f6f8fa; padding: .75rem; overflow-x: auto; }
details { margin: .75rem 0; }
summary { cursor: pointer; }
@media print { body { max-width: none; font-size: 10pt; padding: 0; } .wide, pre { overflow: visible; }
  pre { white-space: pre-wrap; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
  th, td { padding: .1rem .35rem; white-space: normal; overflow-wrap: anywhere; }
  details > summary { list-style: none; font-weight: bold; }
  details::details-content { content-visibility: visible; block-size: auto; } }
"""

MISSING = "missing"
"""What stands in a table for what is not there."""


@dataclass(frozen=True)
class Text:
    """A paragraph; a ``notice`` is something to know before the figures are believed."""

    text: str
    notice: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text under columns; the first is aligned left, the others right. ``folded``: opened by a click."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture: its file beside the report, and its bytes for the page. ``kind``: svg+xml or png."""

    file: str
    caption: str
    kind: str
    content: bytes


@dataclass(frozen=True)
class Listing:
    """Text as it is, such as settings."""

    title: str
    text: str


Block = Text | Table | Picture | Listing


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """Return the page: style and pictures inside, no script, nothing from elsewhere."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def as_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Return the same as Markdown, with the pictures beside it."""
    return "\n\n".join([f"# {title}", *(_markdown(block) for block in blocks)]) + "\n"


def _html(block: Block) -> str:
    if isinstance(block, Text):
        kind = ' class="notice"' if block.notice else ""
        return f"<p{kind}>{html.escape(block.text)}</p>"
    if isinstance(block, Picture):
        source = f"data:image/{block.kind};base64,{base64.b64encode(block.content).decode()}"
        caption = html.escape(block.caption)
        return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    title = html.escape(block.title)
    if isinstance(block, Listing):
        return f"<details><summary>{title}</summary><pre>{html.escape(block.text)}</pre></details>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in block.columns)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in block.rows)
    note = f"<p>{html.escape(block.note)}</p>" if block.note else ""
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>{note}'
    return f"<details><summary>{title}</summary>{table}</details>" if block.folded else f"<h2>{title}</h2>{table}"


def _cell(text: str) -> str:
    kind = ' class="missing"' if text == MISSING else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def _markdown(block: Block) -> str:
    if isinstance(block, Text):
        return f"**Note.** {block.text}" if block.notice else block.text
    if isinstance(block, Picture):
        return f"![{block.caption}]({block.file})"
    if isinstance(block, Listing):
        return f"## {block.title}\n\n```\n{block.text.rstrip()}\n```"
    lines = [f"## {block.title}", "", _line(block.columns), "|---" * len(block.columns) + "|", *map(_line, block.rows)]
    return "\n".join([*lines, *(["", block.note] if block.note else [])])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
