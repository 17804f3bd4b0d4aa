"""docs/scaling.md says what the program says."""

import re
import shlex
from pathlib import Path

from fmsci.files import read_json
from tests.commands import run

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/scaling.md").read_text()


def test_the_projection_shown_is_the_one_that_is_printed(tmp_path):
    command, shown = re.search(r"```\n\$ fmsci (.*?)\n(.*?)```", DOCUMENT, re.DOTALL).groups()
    said = run([*shlex.split(command), f"run={tmp_path}"], cwd=ROOT)
    assert shown in said


def test_the_errors_shown_are_those_of_the_recorded_steps(tmp_path):
    command = re.search(r"^fmsci (scaling configs/scaling/shaped.yaml report .*)$", DOCUMENT, re.MULTILINE)[1]
    run([*shlex.split(command), f"run={tmp_path}"], cwd=ROOT)
    table = re.search(r"^\| left out .*?\n\n", DOCUMENT, re.DOTALL | re.MULTILINE)[0]
    assert table in (tmp_path / "report.md").read_text()
    told = re.search(r"The links found: (.*?) ms a message, (.*?) of the bytes' time at the limit, (.*?) ns", DOCUMENT)
    link = read_json(tmp_path / "model.json")["between"]
    found = round(1e3 * link["latency_s"], 2), round(link["limited"], 2), round(1e9 * link["byte_s"], 1)
    assert tuple(map(float, told.groups())) == found


def test_commands_are_those_of_the_program_and_links_lead_somewhere():
    for line in re.search(r"```bash\n(.*?)```", DOCUMENT, re.DOTALL)[1].splitlines():
        words = shlex.split(line, comments=True)
        assert words[:2] == ["fmsci", "scaling"]
        assert (ROOT / words[2]).exists()
        if "plan" in words:
            run(words[1:], cwd=ROOT)
    for target in re.findall(r"\]\(([^)]+)\)", DOCUMENT):
        assert (ROOT / "docs" / target).exists(), target
