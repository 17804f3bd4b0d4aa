"""Where the result of an evaluation lies: beside the model, under the data's name, wherever one stands."""

from pathlib import Path

import pytest

from fmsci.evaluation import evaluation_path
from tests.commands import run


@pytest.mark.parametrize(
    ("model", "data", "place"),
    [
        ("runs/a/model", "data/b", "runs/a/evaluations/b-test.json"),
        ("../model", "b/", "../evaluations/b-test.json"),
    ],
)
def test_it_lies_beside_the_model(model, data, place):
    assert evaluation_path(Path(model), Path(data), "test") == Path(place)


def test_who_stands_in_the_folder_has_it_at_the_same_place(tmp_path, monkeypatch):
    inside = tmp_path / "run/model/deep"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert evaluation_path(Path(".."), Path(), "test") == tmp_path / "run/evaluations/deep-test.json"
    monkeypatch.chdir(inside.parent)
    assert evaluation_path(Path(), Path("data"), "valid") == tmp_path / "run/evaluations/data-valid.json"


def test_the_command_inside_of_a_model_folder_of_any_name(trained, poisson_data, tmp_path):
    place = tmp_path / "a$_$b"
    (place / "model").mkdir(parents=True)
    for file in (trained / "model").iterdir():
        (place / "model" / file.name).write_bytes(file.read_bytes())
    before = sorted(path.name for path in (place / "model").iterdir())
    run(["evaluate", ".", "--data", poisson_data], cwd=place / "model")
    run(["evaluate", place / "model", "--data", ".", "--split", "valid"], cwd=poisson_data)
    assert sorted(path.name for path in (place / "model").iterdir()) == before
    wanted = [f"poisson-{split}.{ending}" for split in ("test", "valid") for ending in ("json", "png")]
    assert sorted(path.name for path in (place / "evaluations").iterdir()) == wanted
