"""Stopped at two ranks in the middle of an epoch and continued on 1, 3 and 4, by the same engine and by another."""

import json
import shutil

import pytest

from fmsci.checkpoint import newest_checkpoint
from tests.conftest import TRAINING
from tests.train.several import Case, several
from tests.train.test_resume import final_bits

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("elastic")]
ENGINES = {"ddp": ["engine.kind=ddp"]}
ENGINES |= {f"zero{stage}": ["engine.kind=zero", f"engine.zero_stage={stage}"] for stage in (1, 2, 3)}
STEPS = 30
SETTINGS = [*TRAINING, "optim.epochs=10", "optim.lr=1e-2", "monitor.validate_steps=6"]
SETTINGS += ["checkpoint.every_epochs=null", "checkpoint.keep=9", "checkpoint.keep_best=false"]
OTHERS = {
    3: {"ddp": "zero2", "zero1": "zero3"},
    1: {"zero2": "ddp", "zero3": "zero1"},
    4: {"ddp": "zero3", "zero3": "ddp"},
}
"""Ranks -> engine that began on two -> another that goes on."""
CHAIN = {3: ("zero3", 11), 1: ("zero1", 17), 4: ("ddp", None)}
"""Ranks -> engine that continues the one run folder begun by ddp on two, and the step after which it is stopped."""


def losses(folder):
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [entry["train/loss"] for entry in entries if "train/loss" in entry]


@pytest.fixture(scope="module")
def base(train_config, tmp_path_factory):
    """What two ranks leave: a whole run, runs that every engine was stopped in, and those stopped inside validation."""
    folder = tmp_path_factory.mktemp("elastic")

    def case(name, engine, **more):
        return Case(["train", train_config, f"run={folder / name}", *SETTINGS, *ENGINES[engine]], **more)

    cases = [case("whole-ddp", "ddp"), case("whole-zero3", "zero3")]
    cases += [case(engine, engine, term=4) for engine in ENGINES]
    cases.append(case("chain", "ddp", term=4))
    for engine in ("ddp", "zero3"):
        copied = (folder / f"valid-{engine}", folder / f"stopped-{engine}")
        cases += [case(f"valid-{engine}", engine, term=6, copy=copied), case(f"valid-{engine}", engine)]
    found = several(2, cases, folder / "logs-2")
    for one, (codes, printed) in zip(cases, found, strict=True):
        assert codes == [0 if one.term is None else 75] * 2, printed
    return folder


@pytest.fixture(scope="module")
def continued(base, train_config):
    """The runs of two ranks, continued on 3, 1 and 4: by their own engine, and by another."""
    for ranks, (engine, stop) in CHAIN.items():
        cases = []
        for came_from, goes_on in [*zip(ENGINES, ENGINES, strict=True), *OTHERS[ranks].items()]:
            run = shutil.copytree(base / came_from, base / f"{came_from}-{goes_on}-{ranks}")
            cases.append(Case(["train", train_config, f"run={run}", *SETTINGS, *ENGINES[goes_on]]))
        cases.append(Case(["train", train_config, f"run={base / 'chain'}", *SETTINGS, *ENGINES[engine]], term=stop))
        for one, (codes, printed) in zip(cases, several(ranks, cases, base / f"logs-{ranks}"), strict=True):
            assert codes == [0 if one.term is None else 75] * ranks, printed
            assert "continuing " in printed
    return base


def test_every_engine_stops_in_the_middle_of_an_epoch(base):
    for engine in ENGINES:
        position = newest_checkpoint(base / engine)[1]["position"]
        assert (position["step"], position["epoch"], position["seen"]) == (5, 1, 2)


@pytest.mark.parametrize("engine", ENGINES)
def test_on_1_3_and_4_ranks_the_curve_goes_on_in_the_same_and_in_another_engine(continued, engine):
    expected = losses(continued / "whole-ddp")
    assert len(expected) == STEPS
    assert sum(expected[-3:]) < 0.9 * sum(expected[:3])  # the last epoch's and the first one's
    folders = sorted(continued.glob(f"{engine}-*"))
    assert len(folders) == 3 + sum(engine in others for others in OTHERS.values())
    for folder in folders:
        assert losses(folder) == pytest.approx(expected, rel=1e-5), folder.name


def test_one_run_folder_goes_from_engine_to_engine(continued):
    """ddp on 2 ranks, zero3 on 3, zero1 on 1, ddp on 4."""
    told = [path.read_text() for ranks in CHAIN for path in (continued / f"logs-{ranks}").glob("6-0.log")]
    assert [int(text.partition("after step ")[2].split()[0]) for text in told] == [5, 12, 17]
    assert losses(continued / "chain") == pytest.approx(losses(continued / "whole-ddp"), rel=1e-5)


@pytest.mark.parametrize("engine", ["ddp", "zero3"])
def test_a_stop_inside_a_validation_of_two_ranks_is_obeyed_there_and_loses_nothing(base, engine):
    position = newest_checkpoint(base / f"stopped-{engine}")[1]["position"]
    assert (position["step"], position["validation_due"]) == (6, True)
    assert final_bits(base / f"valid-{engine}") == final_bits(base / f"whole-{engine}")
