# What the job scripts of this folder share. Each sources it first, from the folder that it was submitted in.
#
#   prepare [RUN [OPTION...]]   look at the nodes, before hours are spent on them; options are for fmsci doctor
#   step COMMAND...             run a command on all tasks and wait for it, passing on the signal to stop
#   mpi_step COMMAND...         the same for fmsci generate, whose ranks speak MPI
#   settle [RUN]                end the job, or have it requeued
#
# What can be set, in the environment of sbatch:
#   FMSCI_LAUNCH=srun          srun: one process per task; torchrun: srun starts one torchrun per node; mpiexec: that of
#                              MPICH (Hydra)
#   FMSCI_TASKS=               tasks on each node, for a range of nodes: with --nodes=2-4 --ntasks-per-node=4 Slurm would
#                              count 8 tasks and give 2 nodes
#   FMSCI_MPI=pmi2             srun --mpi=... for fmsci generate: pmi2 fits MPICH; empty: the site's default
#   FMSCI_REQUEUE=yes          yes: a stopped job asks Slurm to requeue it; no: it ends with exit code 75
#   FMSCI_MAX_RESTARTS=50      a job that was restarted more often ends
#   FMSCI_NODE_WAIT=600        seconds that a job which lost a rank waits for Slurm to notice that a node is gone
#   FMSCI_DOCTOR=yes           no: leave out fmsci doctor
#   FMSCI_SRUN_ARGS=           more options for srun
#   FMSCI_LINK=                set in the second and later jobs of a chain: they do not repeat a training that failed
#   FMSCI_HOST_SUFFIX=         what a host's name needs for its fast network, such as i
# `fmsci submit` writes some into the script from configs/site/NAME.yaml, over what the environment says: FMSCI_MPI always (mpi:,
# empty where not set), FMSCI_SRUN_ARGS, FMSCI_HOST_SUFFIX and FMSCI_REQUEUE where the site says them, FMSCI_TASKS for a
# range of nodes, and what stands under environment:. The others come from the environment of fmsci submit.

log() { printf '[%s job %s] %s\n' "$(date +%FT%T)" "$SLURM_JOB_ID" "$*"; }
fail() { # fail CODE SENTENCE
    log "$2" >&2
    exit "$1"
}

# ------------------------------------------------------------------ signals

# Not those of the shell that the job was submitted from, whose exported variables come along.
data='' code=0 came_from='' in_use=''
child='' stopping='' interrupted='' handed='' reminder='' launched=''
# One task of an array has the job id that also names the whole array: only number_task means this one alone.
this_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
this_job=${this_job:-$SLURM_JOB_ID}

# USR2 is what --signal asks Slurm for, before the time limit and before a preemption: save, then be requeued. It reaches
# only this script, which hands it to every process of the step, whoever launched it.
# TERM comes from scancel, or from a preemption that gives no other warning, and reaches the ranks without us: they save,
# and what follows is left to Slurm.
# At the time limit Slurm sends TERM too, to a step that is still saving: that is no scancel, and the job is requeued.
on_signal() {
    interrupted=yes
    if [ "$1" = USR2 ] || out_of_time; then stopping=USR2; else stopping=$1; fi
    log "received $1: the step saves and stops"
    if [ -n "$child" ]; then hand_on; fi
}

out_of_time() { [ "${SLURM_JOB_END_TIME:-0}" -gt 0 ] && [ "$(date +%s)" -ge "$SLURM_JOB_END_TIME" ]; }

# hand_on: tell the step that is under way. To a step that Slurm has not started yet, or whose ranks do not listen yet,
# nothing is handed: so it is said again. (They obey once; mpiexec takes a second TERM for impatience, and kills.)
hand_on() {
    if [ "$stopping" = TERM ] || [ -n "$handed" ]; then return; fi
    handed=yes
    if [ "${FMSCI_LAUNCH:-srun}" = mpiexec ]; then
        kill "$child" 2>/dev/null # gone already: the better
        return
    fi
    while :; do scancel --quiet --signal=USR2 "$this_job"; sleep 5; done &
    reminder=$!
}

trap 'on_signal USR2' USR2
trap 'on_signal TERM' TERM

# ------------------------------------------------------------------ the environment

if ! command -v fmsci >/dev/null && [ -r .venv/bin/activate ]; then . .venv/bin/activate; fi
command -v fmsci >/dev/null || fail 2 "there is no fmsci on PATH: submit from a shell where it is, or in a checkout with .venv (bash tools/setup.sh)"

# Parallel file systems without file locks: every file here has one writer, and needs none.
export HDF5_USE_FILE_LOCKING=${HDF5_USE_FILE_LOCKING:-FALSE}
# Where rank 0 waits for the others. The batch script runs on the first node; each job has a port of its own.
export MASTER_ADDR=$SLURMD_NODENAME${FMSCI_HOST_SUFFIX:-} MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))

# Tasks on each node: as asked for, for a node or in all; else one for each GPU; else one.
nodes=$SLURM_JOB_NUM_NODES
tasks=${FMSCI_TASKS:-${SLURM_NTASKS_PER_NODE:-}}
if [ -z "$tasks" ] && [ -n "${SLURM_NTASKS:-}" ]; then
    tasks=$((SLURM_NTASKS / nodes))
    # Slurm may fill one node and leave the other a single task: 7,1.
    if [ "$((tasks * nodes))" != "$SLURM_NTASKS" ] || [[ ${SLURM_TASKS_PER_NODE:-} == *,* ]]; then
        fail 2 "$SLURM_NTASKS tasks lie unevenly on $nodes nodes ($SLURM_TASKS_PER_NODE): submit with --ntasks-per-node=N instead of --ntasks"
    fi
fi
tasks=${tasks:-${SLURM_GPUS_ON_NODE:-1}}
cores=$((SLURM_CPUS_ON_NODE / tasks))
if [ -z "${FMSCI_TASKS:-}" ]; then cores=${SLURM_CPUS_PER_TASK:-$cores}; fi
[ "$cores" -ge 1 ] || fail 2 "each node gives $tasks GPUs but $SLURM_CPUS_ON_NODE cores: submit with --ntasks-per-node=$tasks --cpus-per-task=N, or --exclusive"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cores}
# A rank that is alone left over waits for the others in vain: five minutes after the first has ended, all are.
# (A step does not inherit the job's cores per task since Slurm 22.05.)
step_options=(--cpus-per-task="$cores" --wait=300)
read -r -a more <<<"${FMSCI_SRUN_ARGS:-}"
step_options+=("${more[@]}")

# ------------------------------------------------------------------ one step

# launch OPTION-OF-srun... -- COMMAND...: start COMMAND in the background as FMSCI_LAUNCH says; its number goes to child
launch() {
    local options=(--nodes="$nodes" "${step_options[@]}") command
    while [ "$1" != -- ]; do options+=("$1") && shift; done
    shift
    case ${FMSCI_LAUNCH:-srun} in
    srun) command=(srun "${options[@]}" --ntasks="$((nodes * tasks))" --ntasks-per-node="$tasks" "$@") ;;
    torchrun)
        [ "$1" = fmsci ] && shift
        # torchrun would die of the signal that is meant for its workers, which have handlers of their own. Where one
        # fails, those of the other nodes wait for it for five minutes. (env --ignore-signal came with coreutils 8.31.)
        command=(srun "${options[@]}" --wait=60 --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="$((cores * tasks))"
            bash -c 'trap "" USR2; exec "$@"' _ torchrun --nnodes="$nodes" --nproc-per-node="$tasks" --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d
            --rdzv-endpoint="$MASTER_ADDR:$MASTER_PORT" -m fmsci "$@")
        ;;
    mpiexec) command=(mpiexec -n "$((nodes * tasks))" -ppn "$tasks" "$@") ;;
    *) fail 2 "FMSCI_LAUNCH is '$FMSCI_LAUNCH' but should be srun, torchrun or mpiexec" ;;
    esac
    "${command[@]}" &
    child=$! launched=yes
    if [ -n "$stopping" ]; then hand_on; fi # it came between these two lines
}

# A trapped signal ends `wait` at once, while the step is still saving: then wait again, for its real end.
await() {
    while :; do
        interrupted=''
        wait "$child"
        code=$?
        if [ -z "$interrupted" ]; then break; fi
    done
    child=''
    if [ -n "$reminder" ]; then
        kill "$reminder" 2>/dev/null # scancel may have ended it already
        wait "$reminder" 2>/dev/null
    fi
    handed='' reminder=''
}

step() {
    if [ -n "$stopping" ]; then code=75 && return; fi # asked to stop before it began: nothing is done yet
    launch -- "$@"
    await
}

# MPI ranks find each other through srun's own service, where the launcher is srun. On busy nodes they now and then fail to, and
# some would wait for the others: a step that MPI ended, not fmsci (0, 1, 2 or 75), is started once more. What is made is kept.
mpi_step() {
    local mpi=() again
    [ "${FMSCI_LAUNCH:-srun}" != torchrun ] || fail 2 "the ranks of fmsci generate speak MPI, which torchrun does not start: FMSCI_LAUNCH=srun or mpiexec"
    if [ -n "${FMSCI_MPI-pmi2}" ]; then mpi=(--mpi="${FMSCI_MPI-pmi2}"); fi
    for again in once ''; do
        if [ -n "$stopping" ]; then code=75 && return; fi
        launch "${mpi[@]}" --wait=60 -- "$@"
        await
        if [ "$code" -le 2 ] || [ "$code" = 75 ] || [ -n "$stopping" ] || [ -z "$again" ]; then return; fi
        log "MPI ended the step with $code: starting it once more"
    done
}

prepare() {
    log "start ${SLURM_RESTART_COUNT:-0} of $SLURM_JOB_NAME on $SLURM_JOB_NODELIST, $tasks tasks a node, $cores cores a task"
    if [ -n "${1:-}" ]; then
        mkdir -p "$1" || exit
        if [ -n "${FMSCI_LINK:-}" ] && [ "$(ending "$1")" = failed ]; then
            fail 1 "the job before this one failed: this link of the chain does not repeat it"
        fi
        if unused "$1"; then
            echo "$SLURM_JOB_ID ${SLURM_RESTART_COUNT:-0}" >"$1/slurm_job" || exit
            rm -f "$1/outcome.json" # of an earlier start
        else
            in_use=yes
        fi
    fi
    came_from=$(progress "${1:-}")
    if [ "${FMSCI_DOCTOR:-yes}" = no ]; then return; fi
    step fmsci doctor --folder "${1:-.}" "${@:2}" # of two --folder the last one counts
    launched='' # that was no work yet
    if [ "$code" != 0 ] && [ -z "$stopping" ]; then fail "$code" "these nodes are not fit for the job; see above"; fi
}

# ------------------------------------------------------------------ what follows

# unused RUN: no other job trains there, as far as locks are seen here. (A restart may find the lock of its lost node.)
unused() {
    if [ "$(cut -d ' ' -f 1 "$1/slurm_job" 2>/dev/null)" = "$SLURM_JOB_ID" ] || [ ! -e "$1/.lock" ]; then return 0; fi
    flock --nonblock --shared --conflict-exit-code 9 "$1/.lock" true 2>/dev/null
    [ $? != 9 ] # any other code: there is no such program, or no locks on this file system
}

# nearest FOLDER: itself, or what is there of the way to it.
nearest() {
    local folder=$1
    until [ -d "$folder" ]; do folder=$(dirname "$folder"); done
    echo "$folder"
}

# result_place MODEL WORD...: the folder of an evaluation's result: that of the model, unless --output says where.
result_place() {
    local place before='' word
    place=$(dirname "$1")
    for word in "$@"; do
        if [ "$before" = --output ]; then place=$(dirname "$word"); fi
        case $word in --output=*) place=$(dirname "${word#*=}") ;; esac
        before=$word
    done
    nearest "$place"
}

# How far the work has come: the step of a run's newest checkpoint; without a run the shards in the folder `data`.
progress() {
    local found
    if [ -n "${1:-}" ]; then
        found=$(cd "$1/checkpoints" 2>/dev/null && printf '%s\n' step-* | sort -t - -k 2,2n | tail -n 1)
        case $found in step-*[0-9]) echo "step $((10#${found#step-}))" ;; *) echo "step 0" ;; esac
    elif [ -n "$data" ]; then
        echo "$(find "$data" -path '*/shard-*.h5' 2>/dev/null | wc -l) shards"
    fi
}

# refused RUN: another job was training there when this one began, and its lock kept this one out.
refused() {
    [ -n "$in_use" ] || return 1
    case $code in
    2) return 0 ;;
    1) [ "${FMSCI_LAUNCH:-srun}" = torchrun ] && ! unused "$1" ;;
    *) return 1 ;;
    esac
}

# How a run ended: finished, saved, lost (a rank on another node) or failed, as its outcome.json says; torchrun hides exit
# codes. Nothing where no rank came so far. That of a job which holds the run's lock says nothing of this one.
# Without a run the exit code is all there is. A signal ends some steps at once, with a code above 128. fmsci fails with 1
# or 2, also while it stops; torchrun makes 1 of every code, so of the 75 of a rank that has saved, too.
ending() {
    if [ -n "${1:-}" ] && refused "$1"; then
        echo failed
    elif [ -n "${1:-}" ]; then
        sed -n 's/^ *"status": "\([a-z]*\)",\{0,1\}$/\1/p' "$1/outcome.json" 2>/dev/null
    else
        case $code in
        0) echo finished ;;
        75) echo saved ;;
        [12]) if [ -z "$stopping" ] || [ "${FMSCI_LAUNCH:-srun}" != torchrun ]; then echo failed; fi ;;
        *) if [ -z "$stopping" ]; then echo failed; fi ;;
        esac
    fi
}

# A rank is gone, perhaps with its node, of which Slurm hears later than we do. It then ends this script and requeues the job.
await_slurm() {
    local seconds=${FMSCI_NODE_WAIT:-600} sleeper
    log "lost a rank: waiting up to $seconds s for Slurm to notice that its node is gone, and to requeue this job"
    sleep "$seconds" &
    sleeper=$!
    wait "$sleeper" # a signal ends it
    kill "$sleeper" 2>/dev/null && wait "$sleeper" 2>/dev/null
}

settle() {
    local ended
    ended=$(ending "${1:-}")
    if [ "$ended" = finished ]; then
        # Everything is published by then: what a process came to afterwards, on its way out, changes nothing.
        if [ "$code" != 0 ]; then log "the step ended with exit code $code after the run was finished"; fi
        log "finished"
        exit 0
    fi
    # A rank that was stopped before it could save has lost nothing: the run continues from its newest checkpoint.
    if [ "$ended" = failed ] || { [ -z "$ended" ] && [ -z "$stopping" ]; }; then
        [ "$code" != 0 ] || code=1
        fail "$code" "failed with exit code $code: not requeued, and what depends on this job does not start"
    fi
    if [ "$ended" = lost ] && [ -z "$stopping" ]; then await_slurm; fi
    ended=${ended:-stopped}
    if [ "$stopping" = TERM ]; then fail 75 "stopped by TERM: Slurm requeues a preempted job by itself, a cancelled one ends"; fi
    local restarts=${SLURM_RESTART_COUNT:-0} limit=${FMSCI_MAX_RESTARTS:-50} now
    if [ "$restarts" -ge "$limit" ]; then fail 1 "$ended, but restarted $restarts times already: submit it again, or raise FMSCI_MAX_RESTARTS"; fi
    now=$(progress "${1:-}")
    # One that was stopped before its work began, while it looked at the nodes, had no chance: it tells nothing.
    if [ "$restarts" -gt 0 ] && [ -n "$launched" ] && [ -n "$now" ] && [ "$now" = "$came_from" ]; then
        fail 1 "this restart came no further than $now: not requeued; give it more time (--time), or less to do before it is kept (checkpoint.every_steps, shard_samples)"
    fi
    if [ "${FMSCI_REQUEUE:-yes}" = no ]; then fail 75 "$ended: submit the same job again to continue"; fi
    log "$ended: requeued to continue"
    scontrol requeue "$this_job" || fail 75 "Slurm does not requeue this job: submit it again to continue"
    exit 0
}
