#!/usr/bin/env bash
# All checks and benchmarks that need a GPU, in under 8 minutes and without a network:
#
#     bash tools/bench_gpu.sh OUTPUT_FOLDER              on a machine with a GPU
#     bash tools/bench_gpu.sh OUTPUT_FOLDER --rehearse   the same steps on a CPU at the smallest size, to try the script
#
# Runs the tests marked gpu and those of the kernels, the model against its peers in float32, tf32 and bfloat16, and a
# training run with each engine over NCCL; leaves a text of each step, JSON where there is some, in OUTPUT_FOLDER. It
# takes the Python that is first on the path: a torch for this GPU and what setup.py names must be there.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

if [ $# -lt 1 ] || [ $# -gt 2 ] || { [ $# -eq 2 ] && [ "$2" != --rehearse ]; }; then
    echo "bench_gpu.sh: give the folder for the results, as in: bash tools/bench_gpu.sh results" >&2
    exit 2
fi
mkdir -p "$1" || exit 2
if [ -n "$(ls -A "$1")" ]; then
    echo "bench_gpu.sh: $1 is not empty; give a new folder, so that old figures are not taken for new ones" >&2
    exit 2
fi
out=$(cd "$1" && pwd)
device=cuda size=16M bench=(--precision fp32 bf16 tf32) samples=512 batch=32 grid=128 patience=1
# What the tests of the kernels start compiles for minutes, hence eight processes; -rP: what they print. A rehearsal
# leaves these to the suite, which runs them in an interpreter.
tests=(-p no:benchmark -n 8 tests/model/test_first_kernels.py tests/model/test_kernels.py tests/model/test_gpu.py
    tests/engine/test_replay.py tests/engine/test_gpu.py)
if [ $# -eq 2 ]; then
    device=cpu size=64K bench=(--quick) samples=8 batch=4 grid=16 patience=4
    tests=(-n 0 -m gpu tests/model/test_gpu.py tests/engine/test_replay.py tests/engine/test_gpu.py)
elif ! python -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then
    echo "bench_gpu.sh: torch finds no GPU here; try the script with --rehearse" >&2
    exit 2
fi
python -c 'import torch; print("torch", torch.__version__, torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU")' \
    | tee "$out/machine.txt"

failed=0
step() { # NAME SECONDS COMMAND...: what it prints in NAME.txt; its last line, where that is JSON, in NAME.json
    local name=$1 seconds=$2
    shift 2
    echo "== $name: $*"
    timeout $((seconds * patience)) "$@" > "$out/$name.txt" 2>&1 || { echo "bench_gpu.sh: $name failed, see $out/$name.txt" >&2; failed=1; }
    tail -n 1 "$out/$name.txt" | grep '^{' > "$out/$name.json" || rm -f "$out/$name.json"
    grep -v '^{' "$out/$name.txt" | tail -n 30
}

step tests 110 python -m pytest -q -raP --durations 10 -p no:cacheprovider "${tests[@]}"
step model 190 python tools/bench_model.py --device $device "${bench[@]}" --json

data=$out/data
step generate 20 python -m fmsci generate --system poisson --range 1 5 --grid $grid --train $samples --valid 8 --test 8 --output "$data"
printf 'run: unset\ndata: {path: %s}\noptim: {epochs: 4, batch_size: %s}\n' "$data" "$batch" > "$out/train.yaml"
for engine in kind=ddp "kind=zero zero_stage=1" "kind=zero zero_stage=2" "kind=zero zero_stage=3" "kind=zero zero_stage=2 offload=true"; do
    name=engine-$(echo "$engine" | tr -c 'a-z0-9\n' -)
    settings=()
    for one in $engine; do settings+=("engine.$one"); done
    step "$name" 30 python -m fmsci train "$out/train.yaml" "run=$out/$name" model.size=$size engine.device=$device "${settings[@]}" monitor.pictures=false
    grep -h samples_per_s "$out/$name/metrics.jsonl" 2> /dev/null | tail -n 1
done
exit $failed
