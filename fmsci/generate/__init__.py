"""Many ranks, one plan: data that are bit-identical for any number of ranks. The only room with mpi4py."""

from fmsci.generate.run import generate
from fmsci.generate.speed import seconds_per_sample

__all__ = ["generate", "seconds_per_sample"]
