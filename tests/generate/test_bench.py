"""tools/bench_data.py runs; its figures are in docs/benchmarks.md."""

import json
import subprocess
import sys
from pathlib import Path

from tests.commands import clean_environment

ROOT = Path(__file__).parents[2]


def test_the_bench_runs_and_generation_is_far_faster_than_the_plain_way():
    """Bounds far below the figures, so that a busy machine passes and a lost trick does not."""
    words = [sys.executable, str(ROOT / "tools/bench_data.py"), "--quick", "--rounds", "3", "--json"]
    done = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=200, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    for system in ("poisson", "advection_diffusion", "helmholtz"):
        assert result[f"{system}_ratio"] > 12
    assert result["reading_rate"] > 2000
