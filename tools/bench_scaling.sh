#!/usr/bin/env bash
# Measure training steps on a cluster of four network namespaces whose links are shaped, for the cost model of docs/scaling.md:
#
#   bash tools/bench_scaling.sh OUTPUT_FOLDER [RATE...]      RATE: Mbit/s that a node receives; 100 200 400 800 if none is given
#
# As root on Debian. Points that OUTPUT_FOLDER holds already are not repeated. The nodes share this machine's cores: what that
# costs is measured apart, by the same steps without any exchange. On a machine with other work, put chrt -r 5 before the
# command: it then comes first.
set -euo pipefail

[ $# -ge 1 ] || { echo "bench_scaling.sh: give the folder for the results" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$1"
run=$(cd "$1" && pwd)
shift
rates=("$@")
[ ${#rates[@]} -gt 0 ] || rates=(100 200 400 800)
export FMSCI_SLURM_STATE=${FMSCI_SLURM_STATE:-$PWD/build/slurm-scaling} FMSCI_SLURM_NODES=4 FMSCI_SLURM_SHARE="$PWD $run"
export OMP_NUM_THREADS=1 PYTHONPATH=$PWD
cluster=tools/slurm_cluster.sh
trap '$cluster down' EXIT
$cluster up

# measure KEY=VALUE...: every missing point, one after the other: two would share the cores
measure() {
    local config=configs/scaling/shaped.yaml words=("run=$run" "$@") number ranks
    while read -r number ranks; do
        $cluster login srun --nodes="$ranks" --ntasks-per-node=1 --cpus-per-task=1 --kill-on-bad-exit \
            python -m fmsci scaling $config run "${words[@]}" --point="$number" </dev/null ||
            echo "point $number of ${words[*]} failed"
    done < <(python -m fmsci scaling $config plan "${words[@]}" --json | tail -n 1 | python -c '
import json, sys
for point in json.load(sys.stdin)["points"]:
    if not point["measured"]:
        print(point["number"], point["world_size"])')
}

engines='engines={ddp_bf16: {compress: true}, zero1: {kind: zero, zero_stage: 1}, zero2: {kind: zero, zero_stage: 2}, zero3: {kind: zero, zero_stage: 3}}'
measure 'world_sizes=[1]' 'weak=[1, 2, 4, 8, 16]'
measure 'world_sizes=[1]' 'weak=[4, 8]' 'models=[64K]'
measure 'world_sizes=[1]' 'weak=[8]' "$engines"
for rate in "${rates[@]}"; do
    $cluster shape "$rate"
    measure "network.limit_mbit=$rate" 'world_sizes=[2, 3, 4]'
    case $rate in 200)
        measure "network.limit_mbit=$rate" 'world_sizes=[2, 3, 4]' 'weak=[8]' 'models=[64K]'
        measure "network.limit_mbit=$rate" 'world_sizes=[2, 3]' 'weak=[8]' "$engines"
        ;;
    esac
done
python -m fmsci scaling configs/scaling/shaped.yaml report "run=$run"
