"""Projections: what is chosen for each number of nodes, and what it rests on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fmsci.config import ScalingSettings, load_settings
from fmsci.config.sections import EngineSettings
from fmsci.errors import UserError
from fmsci.scaling.cost import Link
from fmsci.scaling.limits import batch_floor, memory_bytes
from fmsci.scaling.measured import load_measured
from fmsci.scaling.project import node_counts, project, tell
from tests.commands import run
from tests.scaling.made import MODEL, point

ROOT = Path(__file__).parents[2]


@pytest.fixture
def h100(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)

    def load(*overrides):
        return load_settings(ScalingSettings, Path("configs/scaling/h100.yaml"), [f"run={tmp_path}", *overrides])

    return load


def test_numbers_of_nodes():
    assert node_counts("1..256") == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert node_counts("3..10") == [3, 6, 10]
    assert node_counts("1,2,16") == [1, 2, 16]
    assert node_counts("8") == [8]
    assert node_counts("4..4") == [4]
    for wrong in ("", "0..4", "4..2", "a", "4,2", "1..", "2,2", "-1"):
        with pytest.raises(UserError, match="--nodes is"):
            node_counts(wrong)


def test_the_floor_is_where_computing_outweighs_the_exchange():
    for ranks, limit in ((2, 100.0), (4, 800.0)):
        one = point(ranks, ranks, limit=limit)
        floor = batch_floor(MODEL, one, ranks)
        for local, outweighs in ((floor - 1, False), (floor, True)):
            found = MODEL.estimate(replace(one, batch=local * ranks), ranks)
            assert (found.compute_s >= found.exchange_s) is outweighs
    dead = replace(MODEL, between=Link(1e6, 0.0))
    assert batch_floor(dead, point(2, 2), 2) is None
    assert batch_floor(MODEL, point(1, 1), 1) == 1


def test_more_nodes_are_never_faster_for_each_device(h100):
    found = project(h100(), "1..256", 4, "256M", None, None)
    assert len(found.tables) == 3
    for title, rows in found.tables.items():
        assert [row.nodes for row in rows] == node_counts("1..256"), title
        steps = [row.step_s for row in rows]
        assert steps == sorted(steps)
        assert all(row.step_s == pytest.approx(row.compute_s / (1 - row.communication)) for row in rows)
    assert any("ASSUMED" in line for line in found.grounds)
    assert any(line.startswith("computing: fitted to 59 points measured on NVIDIA H100") for line in found.grounds)
    json.dumps(found.document())
    assert found.document()["projected"] is True


def test_the_engine_with_the_shortest_step_is_chosen(h100):
    every = project(h100(), "8", 4, "256M", None, None)
    for engine, how in h100().engines.items():
        text = json.dumps({engine: how.model_dump(mode="json", exclude_unset=True)})
        alone = project(h100().model_copy(update={"engines": {engine: how}}), "8", 4, "256M", None, None)
        for title, rows in alone.tables.items():
            assert every.tables[title][0].step_s <= rows[0].step_s * (1 + 1e-9), text


def test_pieces_are_as_many_as_the_memory_needs(h100):
    ddp = {"engines": {"ddp": EngineSettings()}}
    wide = project(h100("weak=[128]").model_copy(update=ddp), "2", 4, "256M", None, None)
    tight = project(h100("weak=[128]", "memory_gib=5").model_copy(update=ddp), "2", 4, "256M", None, None)
    (wide,), (tight,) = (next(iter(found.tables.values())) for found in (wide, tight))
    assert wide.accumulate == 1
    assert tight.accumulate > 1
    assert tight.memory_bytes <= 5 * 2**30 < wide.memory_bytes
    assert tight.step_s > wide.step_s


def test_memory_is_what_one_device_took(h100):
    """Within 15% of what torch counted on an H100, where a step takes more than a GiB."""
    large = [one for one in load_measured(h100()) if (one.memory_bytes or 0) > 2**30]
    assert len(large) > 10
    for one in large:
        assert memory_bytes(one.point) == pytest.approx(one.memory_bytes, rel=0.15), one.point.name


def test_a_plan_without_a_config_takes_the_one_of_h100s(tmp_path):
    words = ["--nodes", "1..256", "--gpus-per-node", "4", "--model", "256M", f"run={tmp_path}", "weak=[32]"]
    said = run(["scaling", "plan", *words], cwd=ROOT)
    told = "settings: configs/scaling/h100.yaml, as no CONFIG is named\n"
    assert said.startswith(told)
    assert said.removeprefix(told) == run(["scaling", "configs/scaling/h100.yaml", "plan", *words], cwd=ROOT)
    missing = run(["scaling", "plan", *words], code=2, cwd=tmp_path)
    assert "scaling plan without a CONFIG takes configs/scaling/h100.yaml, which is not in this folder" in missing
    assert "Traceback" not in missing


def test_links_that_no_step_uses_need_not_be_known(h100):
    (inside,) = project(
        h100("network.between=null", "weak=[32]", "strong=[]"), "1", 4, "1M", None, None
    ).tables.values()
    assert [row.ranks for row in inside] == [4]
    (across,) = project(h100("network.inside=null", "weak=[32]", "strong=[]"), "4", 1, "1M", None, None).tables.values()
    assert [row.ranks for row in across] == [4]


def test_a_price_of_device_hours_is_a_column(h100, capsys):
    priced = project(h100("device_hour=2.5", "weak=[32]"), "1,8", 4, "256M", None, None)
    tell(priced)
    said = capsys.readouterr().out
    assert "cost per 1e6" in said
    for rows in priced.tables.values():
        for row in rows:
            hours = 1e6 / (row.batch / row.step_s) * row.ranks / 3600
            assert f"{2.5 * hours:.3g}" in said
    tell(project(h100("weak=[32]"), "1", 4, "256M", None, None))
    assert "cost" not in capsys.readouterr().out


def test_strong_scaling_stops_where_ranks_would_have_no_sample(h100):
    found = project(h100(), "1..256", 4, "1M", None, batch=64)
    ((title, rows),) = found.tables.items()
    assert "strong: 64 samples" in title
    assert [row.ranks for row in rows] == [4, 8, 16, 32, 64]


def test_an_engine_whose_computing_is_not_measured_is_left_out(h100, capsys):
    found = project(h100("engines={ddp: {}, saving: {recompute: 1}}"), "1,2", 4, "1M", None, batch=64)
    assert {row.engine for rows in found.tables.values() for row in rows} == {"ddp"}
    assert "engine saving is left out: no step of 1M in bf16, recompute 1 is measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "model", "precision", "sentence"),
    [
        (["network.between=null"], None, None, "nothing is known of the links between nodes: measure points that use"),
        (["network.inside=null"], None, None, "nothing is known of the links inside a node"),
        (["measured=[]"], None, None, "a projection starts from measured points"),
        (["measured=[configs/scaling/h100.yaml]"], None, None, "cannot be read as JSON"),
        (
            ["grid=64"],
            None,
            None,
            "has none on 64 x 64: fmsci scaling CONFIG run",
        ),
        (["engines={saving: {recompute: 1}}"], "1M", None, "no step of 1M in bf16, recompute 1 is measured"),
        ([], "255M", None, "there is no model '255M' (did you mean '256M'?)"),
        ([], None, "fp16", "no step of 1M in fp16 is measured on one device; measured: 64K fp32"),
        (["memory_gib=0.01"], "256M", None, "256M in bf16 does not fit into 0.01 GiB on one device"),
    ],
)
def test_what_is_missing_is_a_sentence(h100, overrides, model, precision, sentence):
    with pytest.raises(UserError) as caught:
        project(h100(*overrides), "1..4", 4, model, precision, None)
    assert sentence in str(caught.value)
