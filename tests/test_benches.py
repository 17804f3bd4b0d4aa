"""The benches in tools/ run, and their bounds here are far below the figures in docs/benchmarks.md.

So a busy machine passes, and a lost trick does not.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fmsci.model.sizes import architecture
from tests.commands import clean_environment
from tests.model.on_cpu import BUILT

ROOT = Path(__file__).parents[1]


def bench(name, rounds=3):
    """Return the figures that a quick run of a bench prints last."""
    command = [sys.executable, str(ROOT / "tools" / name), "--quick", "--rounds", str(rounds), "--json"]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_generation_is_far_faster_than_the_plain_way():
    result = bench("bench_data.py")
    for system in ("poisson", "advection_diffusion", "helmholtz"):
        assert result[f"{system}_ratio"] > 12
    assert result["reading_rate"] > 2000


def test_the_loader_is_faster_than_one_sample_at_a_time():
    result = bench("bench_loader.py", rounds=9)  # a pass takes milliseconds: one disturbance spoils it
    assert result["ratio_none"] > 1.5
    assert result["loader_host"] > 2000
    assert result["wait_percent"] < 20


def test_a_training_step_is_faster_and_smaller_than_a_plain_one():
    result = bench("bench_model.py", rounds=1)["fp32"]
    of_size, roof = result["sizes"]["64K/1"], result["roofline"]["1"]
    figures = of_size["candidates"]
    mixing, whole = 4 * 8 * 16**2 * 2 * 4**2, architecture(4, "64K").flops(128, 128)
    assert of_size["of_product_rate"] == pytest.approx(3 * whole / roof["products"] / figures["ours"]["step"])
    floor = max(3 * (whole - mixing) / roof["products"], 20 * 2**20 / roof["copy"])  # 20 passes over a field of 1 MiB
    floor += max(3 * mixing / roof["products"], 3 * 4 * 2**16 / 8 / roof["copy"])  # a layer's matrices take 64 KiB
    floor += 28 * figures["ours"]["parameters"] / 8 / roof["copy"]
    assert of_size["of_roofline"] == pytest.approx(floor / figures["ours"]["step"])
    assert figures["plain"]["parameters"] == figures["ours"]["parameters"]
    assert figures["plain"]["step"] > 1.3 * figures["ours"]["step"]
    assert figures["ours"]["memory"] < 0.8 * figures["plain"]["memory"]


def test_the_bench_of_the_transforms_compares_both_forms():
    figures = bench("bench_transform.py")
    assert figures.keys() == {"16/64/4", "16/64/16"}
    assert all(0.02 < value < 2 for value in figures.values())  # on a free core 0.8 to 0.95


@BUILT
def test_what_is_compiled_takes_less_time():
    assert bench("bench_compiled.py", rounds=5)["64K"] > 1.1  # on a free core 1.7


def test_the_bench_of_the_trainer_measures_everything_it_names():
    rows = {row[0]: row[1] for row in bench("bench_engine.py")}
    assert float(rows["loop over bare steps, 64K, processor time"].rstrip("%")) < 60
    assert float(rows["two processes over one, 64K"].rstrip("x")) > 0.2
    assert {f"checkpoint 64K, {engine}" for engine in ("ddp", "zero2")} < rows.keys()
    knobs = [name for name in rows if name.startswith("a step of 64K, ")]
    assert len(knobs) == 5 + 3 * 2 * 2


def test_the_script_for_a_gpu_goes_through_all_of_its_steps(tmp_path):
    """Rehearsed on the CPU at the smallest size: every step leaves its figures."""
    script = ["bash", str(ROOT / "tools" / "bench_gpu.sh"), str(tmp_path / "out"), "--rehearse"]
    environment = clean_environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "ours" in json.loads((tmp_path / "out" / "model.json").read_text())["fp32"]["sizes"]["64K/1"]["candidates"]
    engines = sorted(path.parent.name for path in (tmp_path / "out").glob("engine-*/result.json"))
    assert len(engines) == 5
    assert "no GPU" in (tmp_path / "out" / "machine.txt").read_text()
    assert "torch finds no GPU" in (tmp_path / "out" / "tests.txt").read_text()


def test_monitoring_with_pictures_is_a_small_part_of_a_run(poisson_data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import bench_jobs
    import bench_monitor

    make = bench_jobs.maker(poisson_data, tmp_path / "run")
    pictured = bench_monitor.pictured(lambda *more: make(*more, "optim.batch_size=2"), "64K", minutes=1)
    assert 0 < pictured < 0.3  # a validation every seven steps of a millisecond or two, and a minute alone
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_the_script_for_a_gpu_may_take_eight_minutes_at_most():
    """By the seconds that it grants to each step, those of an engine once for each."""
    script = (ROOT / "tools" / "bench_gpu.sh").read_text()
    granted = {
        name: int(seconds) for name, seconds in re.findall(r'^\s*step "?([$\w-]+)"? (\d+) ', script, re.MULTILINE)
    }
    assert {"tests", "model", "generate", "$name"} <= granted.keys()
    (engines,) = re.findall(r"^for engine in (.*); do$", script, re.MULTILINE)
    assert sum(granted.values()) + (len(shlex.split(engines)) - 1) * granted["$name"] < 480
