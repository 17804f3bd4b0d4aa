#!/usr/bin/env bash
# Studies on a machine with a GPU and no network, in steps of a few minutes; each continues what the last one left:
#
#     bash tools/gpu_study.sh OUTPUT_FOLDER [STUDY]... [KEY=VALUE]...     STUDY: configs/study/lab/q1-poisson.yaml if not given
#
# Makes data, pretrains, fine-tunes and trains from scratch with `fmsci study`, all studies as one, in the order given. It stops
# STUDY_SECONDS (540) after its start, then writes reports and packs: OUTPUT_FOLDER/studies.tar.gz (report.html, report.md,
# table.json, results.csv, figures of each; where it is larger, studies/part-000 ...) and OUTPUT_FOLDER/state/part-000 ..., all files under 16 MB. The parts are every run
# folder (tools/pack_studies.py says what is in them): from them the next step goes on, on another machine too. Data are not among
# them, they are made anew in seconds; nor are weights of measured downstream runs. STUDY_PARTS: at most so many parts (1000).
# Exit codes: 0 all are finished; 75 saved, start it again; anything else failed.
# Where NVIDIA's multi-process service can be started, the runs share the GPU through it: their small kernels then run side by
# side and not in turn (docs/benchmarks.md); it ends with this script. A run whose kernels fail can end the others with it: start again.
# It takes the Python that is first on the path. STUDY_WORK: where the runs are meanwhile, build/gpu_study if not given.
set -uo pipefail

if [ $# -lt 1 ]; then
    echo "gpu_study.sh: give the folder for the results, as in: bash tools/gpu_study.sh results" >&2
    exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
shift
studies=() settings=() also=()
for word in "$@"; do
    case $word in *=*) settings+=("$word") ;; *) studies+=("$word") ;; esac
done
[ ${#studies[@]} -gt 0 ] || studies=(configs/study/lab/q1-poisson.yaml)
for study in "${studies[@]:1}"; do also+=(--also "$study"); done
work=${STUDY_WORK:-$root/build/gpu_study}
mkdir -p "$work" && cd "$work" || exit 2
[ -e configs ] || ln -s "$root/configs" configs
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
python=$(command -v python || command -v python3) || exit 1
fmsci() { "$python" -m fmsci "$@"; }

mps() { timeout 20 nvidia-cuda-mps-control "$@"; }
if [ -z "${CUDA_MPS_PIPE_DIRECTORY:-}" ] && command -v nvidia-cuda-mps-control >/dev/null; then
    export CUDA_MPS_PIPE_DIRECTORY=$work/mps CUDA_MPS_LOG_DIRECTORY=$work/mps
    mkdir -p "$work/mps"
    if mps -d; then
        trap 'echo quit | mps' EXIT
    else
        unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    fi
fi

if [ ! -e unpacked ] && [ -e "$out/state/part-000" ]; then
    cat "$out"/state/part-* | tar xz || exit 1
fi
touch unpacked

# What it would take, as measured meanwhile; kernels that it compiles are there for the runs.
fmsci study "${studies[0]}" plan "${settings[@]}" >"$work/plan.txt" 2>&1 &
timeout --preserve-status --signal=TERM --kill-after=60 "${STUDY_SECONDS:-540}" \
    "$python" -m fmsci study "${studies[0]}" run "${also[@]}" "${settings[@]}"
code=$?
[ $code = 143 ] && code=75 # stopped before it had begun
wait
# What there is so far. A study that has nothing to show yet says so.
[ $code = 0 ] || fmsci study "${studies[0]}" report "${also[@]}" "${settings[@]}" || true
"$python" "$root/tools/pack_studies.py" "$out" "${studies[@]}" "${settings[@]}" --parts "${STUDY_PARTS:-1000}" || exit $((code ? code : 1))
exit $code
