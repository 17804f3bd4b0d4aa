"""Settings made to do harm or to hang: each is told in one sentence, at once."""

import itertools

import pytest

from fmsci.config import TrainSettings, load_settings
from fmsci.errors import UserError

SOUND = "run: r\ndata: {path: d}\noptim: {epochs: 1}\n"


def refused(tmp_path, text, words, overrides=()):
    path = tmp_path / "s.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=words) as raised:
        load_settings(TrainSettings, path, overrides)
    assert len(str(raised.value)) < 1000


def test_nine_lines_that_mean_a_billion_values(tmp_path):
    names = "abcdefghijk"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join(['*' + old] * 9)}]" for old, new in itertools.pairwise(names)]
    refused(tmp_path, SOUND + "\n".join(lines) + "\n", "aliases stand for more than")
    refused(tmp_path, SOUND, "aliases stand for more than", ["optim={" + ", ".join(lines) + "}"])


@pytest.mark.parametrize("text", ["x: &x [*x]\n", "x: &x {y: *x}\n", "&x ? *x\n: 1\n"])
def test_a_value_inside_itself(tmp_path, text):
    refused(tmp_path, SOUND + text, "s.yaml")


def test_aliases_as_people_use_them(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("run: &r r\ndata: {path: *r}\noptim: {epochs: 1}\n")
    assert str(load_settings(TrainSettings, path).data.path) == "r"


def test_a_file_without_end(tmp_path):
    refused(tmp_path, SOUND + "# " + "x" * (1 << 20), "more than 1,048,576 bytes")


def test_a_hundred_thousand_keys(tmp_path):
    refused(tmp_path, "".join(f"k{number}: 1\n" for number in range(40_000)), "unknown setting")


def test_a_key_without_end_is_not_repeated_whole(tmp_path):
    refused(tmp_path, SOUND + "x" * 5000 + "\n", "not YAML|unknown setting")
    refused(tmp_path, SOUND + "? " + "x" * 5000 + "\n: 1\n", "unknown setting 'xxx.*\\.\\.\\.'; allowed here")


def test_nesting_without_end(tmp_path):
    for depth in (101, 5000):
        refused(tmp_path, SOUND + "x: " + "[" * depth + "]" * depth, "more than 100 sections are inside each other")
    refused(tmp_path, SOUND + "x: " + "[" * 90 + "]" * 90, "unknown setting 'x'")


@pytest.mark.parametrize("path", ['"a\\0b"', '"\\ud800"'])
def test_a_path_that_no_file_can_have(tmp_path, path):
    refused(tmp_path, SOUND.replace("run: r", f"run: {path}"), "'run' is .* text without null or broken characters")
    refused(tmp_path, SOUND.replace("path: d", f"path: {path}"), "'data.path' is .* text without null")


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [id]", "!!python/name:os.system", "!x y"])
def test_a_tag_that_would_run_code(tmp_path, tag):
    refused(tmp_path, SOUND.replace("run: r", f"run: {tag}"), "is not YAML: could not determine a constructor")


def test_an_override_without_end_is_not_repeated_whole(tmp_path):
    refused(tmp_path, SOUND, "with optim.lr=", ["optim.lr=[" + "x" * 50_000 + "]"])
    refused(tmp_path, SOUND, "is not a setting", ["x" * 50_000])
