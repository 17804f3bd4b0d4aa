#!/usr/bin/env bash
# The main job on this machine: make data, pretrain, fine-tune and train from scratch, compare. CPU only, no cluster.
#
#   bash tools/quickstart.sh                  about five minutes on 2 cores after the set-up
#
# Every step is an fmsci command that a cluster runs too. Interrupt it at any moment (Ctrl-C, or kill with TERM or HUP): what
# runs saves, and the exit code is 75. Start it again: what is finished stays, what was under way continues.
# Fails unless fine-tuning beats training from scratch at each size.
# FMSCI_QUICKSTART=tiny makes the same journey in a minute, with less data and shorter training; FMSCI_OUTPUT=FOLDER puts
# data/ and runs/ there instead of into this checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/setup.sh || exit

RANKS=${RANKS:-2}
# Every process gets its own cores; without this each would start a thread on every core.
export OMP_NUM_THREADS=1

pretrain_data=(configs/data/quickstart_pretrain.yaml)
downstream_data=(configs/data/quickstart_downstream.yaml)
pretrain=(configs/pretrain/quickstart.yaml)
study=(configs/study/quickstart.yaml)
output=${FMSCI_OUTPUT:-}
work=${output:+$output/}runs/quickstart data=${output:+$output/}data/quickstart
small=()
if [ "${FMSCI_QUICKSTART:-full}" = tiny ]; then
    work+=-tiny data+=-tiny
    pretrain_data+=(grid=32 train=512 valid=64 test=64 shard_samples=64)
    downstream_data+=(grid=32 valid=64 test=64 shard_samples=64)
    pretrain+=(data.valid_samples=64 model.modes=8 optim.epochs=4)
    study+=(steps=40)
    small=(data.valid_samples=64 model.modes=8)
fi
if [ "$work" != runs/quickstart ]; then # elsewhere than the settings say
    pretrain_data+=("output=$data-pretrain")
    downstream_data+=("output=$data-downstream")
    pretrain+=("run=$work/pretrain" "data.path=$data-pretrain")
    small+=("data.path=$data-downstream")
    study+=("run=$work/study" "models.quickstart.folder=$work/pretrain/model" "tasks.k5_10=$data-downstream" "overrides=[$(IFS=,; echo "${small[*]}")]")
fi

step() { printf '\n\033[1m== %s\033[0m\n' "$1"; }

# Every command runs in the background in a process group of its own, so that Ctrl-C reaches this script alone, as kill does.
# It passes one TERM on, whichever signal came, and waits: a launcher passes TERM to its ranks, and they save.
set -m
job='' asked='' woken=''
stop() {
    asked=1 woken=1
    [ -z "$job" ] || kill -TERM "$job" 2>/dev/null || true
}
trap stop INT TERM HUP

run() { # prints the command as one would type it, then runs it; ends this script where it fails or was asked to stop
    local code
    printf '$ %s\n' "$*"
    "$@" </dev/null &
    job=$!
    [ -z "$asked" ] || stop # in this very moment
    while :; do
        woken='' code=0
        wait "$job" || code=$?
        [ -n "$woken" ] || break # else it was the signal that ended the wait, and not the command
    done
    job=''
    if [ -n "$asked" ]; then
        case $code in
        0 | 130 | 143) code=75 ;; # it had ended, or had nothing to save: the next start continues all the same
        esac
    fi
    [ "$code" = 0 ] || exit "$code"
}

step "1/5 Is this machine fit?"
run fmsci doctor

step "2/5 Data: SYS-1(1,5) to pretrain on, SYS-1(5,10) as the downstream task"
run mpiexec -n "$RANKS" fmsci generate "${pretrain_data[@]}"
run mpiexec -n "$RANKS" fmsci generate "${downstream_data[@]}"

step "3/5 Pretrain a Fourier neural operator on $RANKS processes"
run mpiexec -n "$RANKS" fmsci train "${pretrain[@]}"

step "4/5 Zero-shot: the pretrained model on the downstream task"
run fmsci evaluate "$work/pretrain/model" --data "$data-downstream"

step "5/5 Fine-tune and train from scratch on 16, 64 and 256 downstream samples"
run fmsci study "${study[0]}" run "${study[@]:1}"

step "Done. Look at it:"
cat <<END
  $work/study/report.html             all that was found; opens in any browser
  $work/study/errors.svg              error against samples, both ways
  $work/study/fields-k5_10-finetune.png   source, solution, prediction, error
  . tools/setup.sh && tensorboard --logdir $work   curves and pictures of every run
END
if [ "$work" = runs/quickstart ]; then
    cat <<END
Next (after '. tools/setup.sh', which puts fmsci on the PATH of your shell):
  fmsci train configs/finetune/quickstart.yaml data.train_samples=128 engine.threads=1  fine-tune on more samples
  fmsci train configs/pretrain/quickstart.yaml --dry-run run=runs/16M model.size=16M  what a larger model would take
  fmsci generate --system poisson --range 1 2.5 --grid 64 --train 1024 --valid 128 --test 128 --output data/near
END
fi
