"""Where the compiled functions of a CPU are, and whether they can be tested here."""

import platform
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "fmsci/model/kernels"
HERE = sys.platform == "linux" and platform.machine() == "x86_64" and "avx2" in Path("/proc/cpuinfo").read_text()
LIBRARY = KERNELS / f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
BUILT = pytest.mark.skipif(
    not HERE or (not LIBRARY.exists() and shutil.which("gcc") is None),
    reason="it is for x86-64 with AVX2, and there is another core, or there was no C compiler at the set-up",
)


def close(ours, exact, bound):
    """Tell whether numbers are as near to exact ones as a share of the largest."""
    exact = exact.detach()
    return float((ours.double() - exact).abs().max()) < bound * max(1.0, float(exact.abs().max()))
