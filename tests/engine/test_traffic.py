"""The bytes of a step in closed form are those that are exchanged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fmsci.config.sections import EngineSettings
from fmsci.engine.traffic import payload, sent_bytes
from tests.commands import MPIEXEC, clean_environment
from tests.engine.curves import build_operator
from tests.engine.traffic import FROZEN

ROOT = Path(__file__).parents[2]


@pytest.mark.distributed
def test_the_bytes_of_a_step_are_those_of_the_closed_form(tmp_path):
    cut = tmp_path / "cut.json"
    cut.write_text('{"zero_optimization": {"stage3_param_persistence_threshold": 0}}')
    settings = [{"kind": "ddp", "accumulate": 2}, {"kind": "ddp", "compress": True}]
    for stage in (0, 1, 2, 3):
        extra = {"deepspeed_config": str(cut)} if stage == 3 else {}
        settings.append({"kind": "zero", "zero_stage": stage, "accumulate": 2, **extra})
    settings.append({"kind": "zero", "zero_stage": 2, "compress": True})
    frozen = [dict(one) for one in settings[1:6]]  # ddp, zero0-3
    settings += frozen
    output = tmp_path / "counted.json"
    command = [
        str(MPIEXEC),
        "-n",
        "2",
        sys.executable,
        "-m",
        "tests.engine.traffic",
        str(output),
        json.dumps(settings),
        str(len(frozen)),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sizes = {name: parameter.numel() for name, parameter in build_operator().named_parameters()}
    parameters, whole = sum(sizes.values()), len(settings) - len(frozen)
    trained = sum(size for name, size in sizes.items() if not name.startswith(f"fno.{FROZEN}."))
    assert trained < 0.6 * parameters
    for number, (document, counted) in enumerate(zip(settings, json.loads(output.read_text()), strict=True)):
        large = {kind: count for kind, count in counted.items() if count > 100}  # without single numbers
        expected = payload(EngineSettings(**document), parameters, 2, trained if number >= whole else None)
        assert large == pytest.approx(expected, rel=0.01), document


def test_what_a_rank_sends():
    assert sent_bytes(EngineSettings(), 1000, 1) == 0
    assert sent_bytes(EngineSettings(), 1000, 4) == 6000
    assert sent_bytes(EngineSettings(compress=True), 1000, 4) == 3000
    assert sent_bytes(EngineSettings(kind="zero", zero_stage=1), 1000, 4) == 9000
    assert sent_bytes(EngineSettings(kind="zero", zero_stage=3), 1000, 4) == 6000
    assert sent_bytes(EngineSettings(), 1000, 4, trained=600) == 3600
    assert sent_bytes(EngineSettings(kind="zero", zero_stage=1), 1000, 4, trained=600) == 5400
    assert sent_bytes(EngineSettings(kind="zero", zero_stage=3), 1000, 4, trained=600) == 4800
