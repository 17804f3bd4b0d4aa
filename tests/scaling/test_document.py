"""docs/scaling.md says what the program says."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from fmsci.config import ScalingSettings, load_settings
from fmsci.config.sections import EngineSettings
from fmsci.engine.group import process_group
from fmsci.engine.zero_config import deepspeed_config
from fmsci.files import read_json
from fmsci.model.sizes import architecture
from fmsci.scaling.fit import fit
from fmsci.scaling.limits import batch_floor
from fmsci.scaling.measured import measured_from
from fmsci.scaling.project import project
from fmsci.world import World
from tests.commands import run
from tests.scaling.made import point

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/scaling.md").read_text()


def test_the_projection_shown_is_the_one_that_is_printed(tmp_path):
    command, shown = re.search(r"```text\n\$ fmsci (.*?)\n(.*?)```", DOCUMENT, re.DOTALL).groups()
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
        assert words[2] == "plan" or (ROOT / words[2]).exists()
        if "plan" in words:
            run(words[1:], cwd=ROOT)
    for target in re.findall(r"\]\(([^)]+)\)", DOCUMENT):
        assert (ROOT / "docs" / target).exists(), target


def words(text):
    """Return a pattern that finds a sentence of the document however its lines are broken."""
    return r"\s+".join(text.split())


@pytest.fixture(scope="module")
def recorded():
    path = ROOT / "tests/scaling/shaped.json"
    return [measured_from(entry, str(path)) for entry in read_json(path)]


def eight_each(recorded, engine, ranks, model="1M", limit=200.0):
    """Return the point with 8 samples a rank."""
    (one,) = (
        one
        for one in recorded
        if (one.point.engine, one.point.world_size, one.point.model) == (engine, ranks, model)
        and (one.point.local, one.point.limit_mbit) == (8, limit)
    )
    return one


def test_the_floors_shown_are_those_of_the_fitted_model(recorded):
    head = re.search(r"^\| Mbit/s \|.*\n\|[-|]+\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    rows = [
        [int(cell.strip().replace(",", "")) for cell in line.strip("|").split("|")] for line in head[1].splitlines()
    ]
    assert [row[0] for row in rows] == [100, 200, 400, 800, 10_000]
    cost = replace(fit(recorded), crowd={})  # each rank with cores of its own
    for limit, *shown in rows:
        points = [point(2, 2, limit=limit), point(4, 4, limit=limit), point(16, 16, limit=limit)]
        points.append(point(4, 4, "ddp_bf16", limit=limit))
        assert shown == [batch_floor(cost, one, one.world_size) for one in points], limit
    own = cost.compute["1M", "fp32"]
    pattern = r"1M at 64 x 64 on one core \((\d+) ms \+ (\d+) ms a sample\)"
    fixed, slope = re.search(words(pattern), DOCUMENT).groups()
    assert (int(fixed), int(slope)) == (round(1e3 * own.fixed_s), round(1e3 * own.sample_s))


def test_the_milliseconds_quoted_are_those_of_the_recorded_steps(recorded):
    pattern = r"1M with 8 samples a rank: (\d+) to (\d+) ms on two nodes, (\d+) to (\d+) ms on three"
    told = tuple(map(int, re.search(words(pattern), DOCUMENT).groups()))
    steps = [eight_each(recorded, engine, ranks).step_s for ranks in (2, 3) for engine in ("ddp", "ddp_bf16")]
    assert told == tuple(round(1e3 * step) for step in steps)
    pattern = r"(\d+) and (\d+) ms against (\d+) \(two nodes, 200 Mbit/s, 1M\), ZeRO 3 with gloo (\d+)"
    told = tuple(map(int, re.search(words(pattern), DOCUMENT).groups()))
    steps = [eight_each(recorded, engine, 2).step_s for engine in ("zero1", "zero2", "ddp", "zero3")]
    assert told == pytest.approx([1e3 * step for step in steps], abs=0.51)
    pattern = r"DeepSpeed itself takes (\d+) to (\d+) ms of a step of 1M"
    told = tuple(map(int, re.search(words(pattern), DOCUMENT).groups()))
    own = [
        1e3 * (one.step_s - one.alone_s)
        for one in (eight_each(recorded, f"zero{stage}", 1, limit=None) for stage in (1, 2, 3))
    ]
    assert told == (round(min(own)), round(max(own)))


def test_the_floors_of_h100s_are_those_of_the_projection(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    pattern = r"no floor at 64K to 16M \(.*?\), (\d+) to (\d+) samples at 256M with DDP in bf16 computing, "
    pattern += r"(\d+) to (\d+) with"
    told = tuple(map(int, re.search(words(pattern), DOCUMENT, re.DOTALL).groups()))
    settings = load_settings(ScalingSettings, Path("configs/scaling/h100.yaml"), [f"run={tmp_path}", "weak=[32]"])

    def floors(size, **how):
        chosen = settings.model_copy(update={"engines": {"ddp": EngineSettings(**how)}})
        (rows,) = project(chosen, "2..256", 4, size, None, None).tables.values()
        return [row.floor for row in rows]

    plain, halved = floors("256M"), floors("256M", compress=True)
    assert told == (min(plain), max(plain), min(halved), max(halved))
    for size in ("1M", "16M"):
        assert set(floors(size)) == {1}, size


def test_the_defaults_are_those_that_it_states():
    """What was measured decides them: a change of one is a change of the document."""
    own = EngineSettings()
    told = dict(re.findall(r"`engine\.(\w+): (\w+)`", DOCUMENT))
    assert told == {"kind": own.kind, "compress": str(own.compress).lower(), "accumulate": str(own.accumulate)}
    assert (own.kind, own.compress, own.accumulate) == ("ddp", False, 1)
    pattern = r"buckets of (\d+) MiB with DDP, of ([\d,]+) numbers with DeepSpeed"
    ddp, zero = re.search(words(pattern), DOCUMENT).groups()
    with process_group(World(), torch.device("cpu"), 60.0, always=True):
        assert DistributedDataParallel(torch.nn.Linear(2, 2)).bucket_bytes_cap == int(ddp) * 2**20
    config = deepspeed_config(
        world_size=2,
        accumulate=own.accumulate,
        num_parameters=architecture(4, "256M").num_parameters,
        stage=1,
        offload=False,
        grad_clip=None,
        compress=own.compress,
        on_gpu=False,
    )
    assert config["zero_optimization"]["reduce_bucket_size"] == int(zero.replace(",", ""))
