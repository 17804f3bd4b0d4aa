"""Package and extras of fmsci: wide ranges, so that a site's own torch and MPI serve; tools/lock.txt pins versions."""

import platform
import re
import sys
import zlib
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent
version = re.search(r'__version__ = "([^"]+)"', (HERE / "fmsci" / "__init__.py").read_text())
assert version is not None, "fmsci/__init__.py names no version"

EXTRAS = {
    "mpi": ["mpi4py>=4.0"],
    "deepspeed": ["deepspeed>=0.16"],
    "hub": ["huggingface_hub>=0.26"],  # only to push to and load from the Hugging Face Hub
    "wandb": ["wandb>=0.18"],
    "bench": ["neuraloperator>=1.0"],
    "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
    "dev": [
        "hypothesis>=6.100",
        "mypy>=1.10",
        "pypdf>=5.0",
        "pytest>=8.0",
        "pytest-xdist>=3.5",
        "ruff>=0.6",
        "the_well>=1.1",
        "triton>=3.4; platform_system == 'Linux'",
        "types-PyYAML",
    ],
}

# Optional: without a C compiler the installation goes on, and torch's operations do the same in more time. Plain C that
# is loaded beside torch, linked neither with Python nor with an OpenMP of its own.
SOURCES = [
    f"fmsci/model/kernels/{name}"
    for name in ("pointwise.c", "mixing.c", "cores.h", "registers.h", "pointwise_core.h", "mixing_core.h")
]
ON_CPU = Extension(
    "fmsci.model.kernels._cpu",
    SOURCES[:2],
    depends=[*SOURCES, "setup.py"],
    # What it was made from: a library of other sources than those beside it is not taken (fmsci/model/compiled.py).
    define_macros=[("SOURCES", f"{zlib.crc32(b''.join((HERE / name).read_bytes() for name in SOURCES))}u")],
    extra_compile_args=["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"],
    optional=True,
)
HAS_KERNELS = sys.platform == "linux" and platform.machine() == "x86_64"

setup(
    name="fmsci",
    version=version.group(1),
    description="From equations to a pretrained, fine-tuned and measured neural operator, on a laptop or a cluster",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["fmsci", "fmsci.*"]),
    package_data={"fmsci": ["py.typed"], "fmsci.model.kernels": ["*.c", "*.h"]},
    ext_modules=[ON_CPU] if HAS_KERNELS else [],
    install_requires=[
        "h5py>=3.10",
        "matplotlib>=3.8",
        "numpy>=2.0",
        "pydantic>=2.6",
        "PyYAML>=6.0",
        "rich>=13.0",
        "safetensors>=0.4",
        "tensorboard>=2.14",
        "torch>=2.8",
        "typer>=0.12",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["fmsci=fmsci.cli:main"]},
)
