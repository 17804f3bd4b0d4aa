"""Many ranks, one plan: data that are bit-identical for any number of ranks. The only room with mpi4py."""

from fmsci.generate.run import generate

__all__ = ["generate"]
