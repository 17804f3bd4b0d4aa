#!/usr/bin/env bash
# A study on a machine with a GPU and no network, in steps of at most ten minutes; each continues what the last one left:
#
#     bash tools/gpu_study.sh OUTPUT_FOLDER [STUDY [KEY=VALUE]...]     STUDY: configs/study/lab/q1-poisson.yaml if not given
#
# Makes data, pretrains, fine-tunes and trains from scratch with `fmsci study`, stops after STUDY_SECONDS (540), and leaves in
# OUTPUT_FOLDER report.html, report.md, table.json, results.csv, the figures, and state.tar.part-000 ..., all files under 16 MB.
# Together the parts are every run folder with its model (cat state.tar.part-* | tar x): from them the next step goes on, on
# another machine too. Data are not among them, they are made anew in seconds; nor are weights of measured downstream runs.
# Exit codes: 0 the study is finished; 75 saved, start it again; anything else failed.
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
study=${1:-configs/study/lab/q1-poisson.yaml}
[ $# -gt 0 ] && shift
work=${STUDY_WORK:-$root/build/gpu_study}
mkdir -p "$work" && cd "$work" || exit 2
[ -e configs ] || ln -s "$root/configs" configs
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
fmsci() { python -m fmsci "$@"; }

if [ ! -e unpacked ] && [ -e "$out/state.tar.part-000" ]; then
    cat "$out"/state.tar.part-* | tar x || exit 1
fi
touch unpacked
folder=$(python - "$study" "$@" <<'END'
import sys
from pathlib import Path
from fmsci.config import StudySettings, load_settings
settings = load_settings(StudySettings, Path(sys.argv[1]), sys.argv[2:])
print(settings.run, settings.runs or settings.run / "runs", sep="\n")
END
) || { fmsci study "$study" plan "$@"; exit 2; }
mapfile -t places <<<"$folder"

timeout --preserve-status --signal=TERM --kill-after=60 "${STUDY_SECONDS:-540}" python -m fmsci study "$study" run "$@"
code=$?
# What there is so far. A study that has nothing to show yet says so.
[ $code = 0 ] || fmsci study "$study" report "$@" >/dev/null || true

for file in "${places[0]}"/{report.html,report.md,table.json,results.csv,throughput.json,*.svg,*.png}; do
    [ -e "$file" ] && cp "$file" "$out/"
done
left_out=(--exclude=tensorboard)
for run in "${places[1]}"/*-finetune-* "${places[1]}"/*-scratch-*; do
    [ -e "$run/result.json" ] && compgen -G "$run/evaluations/*.json" >/dev/null && left_out+=(--exclude="$run/model")
done
fresh=$(mktemp -d "$out/.aside-XXXXXX") || exit 1
kept=()
for place in "${places[@]}"; do
    case $place in "${places[0]}"/*) continue ;; esac # inside the other
    [ -e "$place" ] && kept+=("$place")
done
if [ ${#kept[@]} -gt 0 ]; then
    tar c "${left_out[@]}" "${kept[@]}" | split -b 15000000 -d -a 3 - "$fresh/state.tar.part-" || exit 1
    rm -f "$out"/state.tar.part-*
    mv "$fresh"/state.tar.part-* "$out/"
fi
rmdir "$fresh"
exit $code
