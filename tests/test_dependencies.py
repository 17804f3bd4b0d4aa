"""docs/dependencies.md tells the truth: every requirement has a row, with a licence that goes with Apache-2.0."""

import re
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PAGE = (Path(__file__).parents[1] / "docs/dependencies.md").read_text()
REQUIRED = sorted({Requirement(text).name for text in requires("fmsci") or []}, key=str.lower)

ALLOWED = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|zlib|MPL[ -]2\.0|Mozilla Public License 2\.0", re.IGNORECASE
)
REFUSED = re.compile(r"(?<!L)GPL|AGPL|Affero|proprietary|non-?commercial", re.IGNORECASE)


def rows():
    """Return the packages that the tables name, each with what is said of its licence."""
    found = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and not set(line) <= set("|- ") and cells[-1] != "reason":
            packages, licence = (cells[1], cells[2]) if cells[0].startswith("`") else (cells[0], cells[1])
            found |= dict.fromkeys(re.split(r",\s*", packages), licence)
    return found


def licence_of(name):
    """Return all that a package says of its licence; None where it is not installed."""
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return None
    classifiers = [text for text in about.get_all("Classifier") or [] if text.startswith("License")]
    first = (about.get("License") or "").strip().partition("\n")[0]
    return " ".join([about.get("License-Expression") or "", first, *classifiers]).strip()


def test_every_requirement_has_a_row_and_every_row_is_one():
    assert sorted(rows(), key=str.lower) == REQUIRED


@pytest.mark.parametrize("name", REQUIRED)
def test_its_licence_goes_with_ours(name):
    assert ALLOWED.search(rows()[name]), rows()[name]
    said = licence_of(name)
    if said is None:
        pytest.skip(f"{name} is not installed here")
    if said:  # some name a file alone
        assert ALLOWED.search(said), said
        assert not REFUSED.search(said), said
