"""A profile names the stages of a step, and nothing of it is left where none is asked for."""

import gzip
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from fmsci.stages import STAGES, named, naming, stage
from tests.commands import run
from tests.conftest import TRAINING

ROOT = Path(__file__).parents[2]


def read(folder):
    return json.loads((folder / "profile" / "stages.json").read_text())


def test_the_profile_of_the_page_has_a_trace_and_a_table_of_all_stages(poisson_data, tmp_path):
    """The command of docs/monitoring.md, on small data and a small model."""
    page = (ROOT / "docs/monitoring.md").read_text()
    given = re.search(r"^fmsci (train configs/finetune/quickstart.yaml run=runs/profiled .*)$", page, re.MULTILINE)[1]
    folder = tmp_path / "runs/profiled"
    shutil.copytree(ROOT / "configs/finetune", tmp_path / "configs/finetune")
    smaller = [word for word in TRAINING if "epochs" not in word]
    more = [f"data.path={poisson_data}", "data.train_samples=null", "data.valid_samples=7", "init=null", *smaller]
    said = run([*shlex.split(given), *more], cwd=tmp_path)
    assert "profile of 5 steps: runs/profiled/profile/stages.txt" in said
    found = read(folder)
    assert (found["steps"], found["device"]) == (5, "cpu")
    rows = {row["stage"]: row for row in found["stages"]}
    assert list(rows) == list(STAGES)
    for name in STAGES:
        assert rows[name]["calls"] == 0 if name == "reduce" else rows[name]["ms"] > 0, name
    assert (rows["data"]["calls"], rows["lift"]["calls"], rows["backward"]["calls"]) == (1, 1, 1)  # no validation's
    inside = sum(row["in_backward_ms"] for row in rows.values())
    assert 0 < inside < rows["backward"]["ms"]
    assert rows["mix"]["in_backward_ms"] > 0
    with gzip.open(folder / "profile" / "trace.json.gz") as stream:
        names = {event.get("name") for event in json.load(stream)["traceEvents"]}
    assert set(STAGES) - names == {"reduce"}
    table = (folder / "profile" / "stages.txt").read_text()
    assert all(f"\n{name} " in table for name in STAGES)


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero3"])
def test_several_ranks_reduce_in_every_step(engine, train_config, tmp_path):
    how = [] if engine == "ddp" else ["engine.kind=zero", f"engine.zero_stage={engine[-1]}"]
    run(["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, *how, "monitor.profile=3"], ranks=2)
    rows = {row["stage"]: row for row in read(tmp_path / "run")["stages"]}
    reduced = rows["reduce"]
    assert reduced["calls"] == 1 if engine == "ddp" else reduced["calls"] > 1, engine  # ZeRO gathers the weights too
    assert reduced["in_backward_ms"] > 0
    assert reduced["ms"] == 0 if engine == "ddp" else reduced["ms"] > 0, engine
    assert reduced["in_backward_ms"] < rows["backward"]["ms"]


def test_a_run_too_short_for_its_profile_says_so_or_takes_fewer_steps(train_config, tmp_path):
    arguments = ["train", train_config, *TRAINING, "optim.epochs=1"]
    said = run([*arguments, f"run={tmp_path / 'none'}", "monitor.profile=5"])  # 3 steps in all
    assert "monitor.profile: the run ended within the 3 steps that warm up" in said
    assert not (tmp_path / "none" / "profile").exists()
    said = run([*arguments, f"run={tmp_path / 'some'}", "monitor.profile=5", "optim.epochs=2"])
    assert "profile of 3 steps" in said
    assert read(tmp_path / "some")["steps"] == 3


def test_without_a_profile_there_is_none_and_a_name_costs_nothing(trained):
    assert not (trained / "profile").exists()
    assert stage("mix") is stage("head")  # the same empty context each time: nothing is made


def test_names_come_back_with_the_profile_and_are_not_seen_by_a_compiler():
    twice = named("mix")(lambda x: x * 2)

    def step(x):
        with stage("lift"):
            return twice(x) + 1

    with naming(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as taken:
        step(torch.ones(3))
    assert {"lift", "mix"} <= {event.name for event in taken.events()}
    exported = torch.export.export(Wrapped(step), (torch.ones(3),))
    assert not [node for node in exported.graph.nodes if "profiler" in str(node.target)]
    assert torch.equal(exported.module()(torch.ones(3)), torch.full((3,), 3.0))


class Wrapped(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function
