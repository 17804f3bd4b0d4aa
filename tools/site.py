"""The site's pages, as a hook of mkdocs (mkdocs.yml): every file of docs/, the README as front page, and the API.

A new file of docs/ is in the navigation at once, under its own title; ``SECTIONS`` only says where. The API pages are
made from the docstrings of the names that a room or the package itself gives out (its ``__all__``), and of what the
worked examples of docs/contributing.md build on.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = {
    "Start": ["index", "tutorial", "concepts"],
    "Use": ["data", "training", "studies", "library", "slurm", "monitoring", "scaling", "settings"],
    "Know": ["results", "benchmarks", "format", "fourier_layer", "reliability", "dependencies"],
    "Change": ["contributing"],
}
ROOMS = ("pde", "model", "shards", "config")
"""The rooms that give out names for use from outside."""

EXAMPLES = {
    "engine": ["api.Engine", "api.Snapshot", "build.build_engine"],
    "model": ["sizes.Architecture", "scales.Scales"],
    "pde": ["system.Draw", "system.Drawn"],
    "": ["errors.UserError", "model_folder.weights.load_operator", "evaluate.evaluate", "metrics.relative_l2"],
}
"""What else the documentation tells people to call or to build on, by room."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write the navigation: every page that there is, then the API."""
    there = ["index", *sorted(path.stem for path in (ROOT / "docs").glob("*.md"))]
    placed = [name for names in SECTIONS.values() for name in names]
    sections = {title: [name for name in names if name in there] for title, names in SECTIONS.items()}
    sections["Know"] += [name for name in there if name not in placed]
    nav: list[Any] = [{title: [f"{name}.md" for name in names]} for title, names in sections.items()]
    nav.append({"API": [f"api/{room or 'fmsci'}.md" for room in pages()]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the front page and the API pages."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    for room, text in pages().items():
        files.append(File.generated(config, f"api/{room or 'fmsci'}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files outside of docs/ into their names: the site does not hold them. Pictures stay."""
    return re.sub(r"(?<!!)\[([^]]+)\]\((?:\.\./)*(?!https?:|#)[^)]*?(?<!\.md)(?:\.\w+)?\)", keep_page_links, markdown)


def keep_page_links(match: re.Match[str]) -> str:
    """Return a link to a page as it is, any other as the text that it has."""
    target = match[0].rpartition("](")[2].rstrip(")")
    inside = target.partition("#")[0].endswith(".md") and not target.startswith("../") and target != "CHANGELOG.md"
    return match[0] if inside or target.startswith(("https://", "#")) else match[1]


def pages() -> dict[str, str]:
    """Return the API page of each room as Markdown."""
    found = {room: f"# fmsci{'.' if room else ''}{room}\n\n" for room in ("", *ROOMS, "engine")}
    for room, text in found.items():
        module = importlib.import_module(f"fmsci.{room}" if room else "fmsci")
        text = f"{text}{(module.__doc__ or '').strip()}\n\n"
        names = [home(module, name) for name in getattr(module, "__all__", [])]
        names += [f"fmsci.{room}{'.' if room else ''}{name}" for name in EXAMPLES.get(room, [])]
        found[room] = text + "".join(f"::: {name}\n\n" for name in dict.fromkeys(names) if name)
    return found


def home(module: Any, name: str) -> str | None:
    """Return the dotted name of what a room gives out where it is defined; None for plain values."""
    value = getattr(module, name)
    defined = getattr(value, "__module__", "")
    if not (callable(value) and defined.startswith("fmsci")):
        return None
    return f"{defined}.{value.__qualname__}"
