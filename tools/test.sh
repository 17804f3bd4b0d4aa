#!/usr/bin/env bash
# Sets up, then runs every check: lint, format, types, and all tests. What follows goes to pytest:
#
#   bash tools/test.sh                        all
#   bash tools/test.sh tests/pde -k poisson   some
#   bash tools/test.sh -n 0 -x                all in one process, stopping at the first failure
#
# Tests marked slurm run jobs on real Slurm clusters of two and three nodes that tools/slurm_cluster.sh makes on this machine, as root
# on Debian (its Slurm is installed with apt-get the first time); elsewhere they are skipped and the summary says why.
# Where apt-get cannot install it they fail; FMSCI_SLURM_OPTIONAL=yes skips them then (a machine without a network).
#
# Ends with the exit code of the first check that fails; the last line of the tests is pytest's summary.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/setup.sh || exit

# Many tests start processes of their own: one thread for each, or they fight for the cores.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMEXPR_NUM_THREADS=1

# What is ours: a user may keep scripts beside it.
OURS=(fmsci tests tools setup.py)
ruff check "${OURS[@]}"
ruff format --check "${OURS[@]}"
mypy

# Two at a time: many tests mostly wait for processes to start. Tests of one xdist_group run one after the other.
exec pytest -n 2 --dist loadgroup --durations=15 "$@"
