#!/usr/bin/env bash
# A real Slurm cluster on one Debian machine, for tests and for trying job scripts: a login node and some compute nodes.
#
#   tools/slurm_cluster.sh up                  start it (as root; installs Debian's Slurm the first time)
#   tools/slurm_cluster.sh login sbatch ...    run a command on the login node, in the current folder
#   tools/slurm_cluster.sh status              nodes and jobs
#   tools/slurm_cluster.sh kill-node 2         cut the power of node2
#   tools/slurm_cluster.sh restore-node 2      switch it on again
#   tools/slurm_cluster.sh shape 200           let each node receive at most 200 Mbit/s; shape off: as fast as it can
#   tools/slurm_cluster.sh down                stop everything, remove the state folder
#
# Every node, and the login node, has namespaces of its own: host name, network address, loopback and ports, processes,
# /run, /dev/shm; each compute node its own /tmp too. All other folders are shared, as on a parallel file system. The
# nodes live inside the login node's namespaces, so the machine itself is left as it was: no address, no bridge, no file
# outside the state folder. When the login node's first process dies, the kernel removes all of it.
#
# Settings, from the environment:
#   FMSCI_SLURM_STATE   state folder (build/slurm of this checkout); clusters with different ones do not meet
#   FMSCI_SLURM_NODES   compute nodes (2)
#   FMSCI_SLURM_SHARE   folders below /tmp, separated by blanks, that the nodes share (this checkout)
#
# Two partitions: main, and urgent, whose jobs preempt those of main (a warning signal, 10 s, requeue). Each node pretends
# to have 8 cores, 16 GB and 4 GPUs; nothing enforces that. A requeued job is eligible again after about 6 s, not two minutes.
# Slurm notices a lost node after a minute or two; scontrol update nodename=node2 state=down reason=power tells it at once.
#
# Exit codes: 0 done, 2 this machine cannot run it (the reason in one line), 3 its Slurm could not be installed, anything else
# failed.
set -euo pipefail

SELF=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)/$(basename "${BASH_SOURCE[0]}")
ROOT=$(dirname "$(dirname "$SELF")")
STATE=${FMSCI_SLURM_STATE:-$ROOT/build/slurm}
NODES=${FMSCI_SLURM_NODES:-2}
SHARE=${FMSCI_SLURM_SHARE:-$ROOT}
NETWORK=10.77.0 # of the cluster's own network namespace: no other network can be in its way
PACKAGES=(slurmctld slurmd slurm-client munge iproute2)

stop() { # stop CODE SENTENCE
    printf 'slurm_cluster: %s\n' "$2" >&2
    exit "$1"
}

# until_true SECONDS COMMAND...: wait until a command succeeds
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

# first_child PID: the number of the first process in the namespaces that unshare makes
first_child() {
    until_true 5 grep -q . "/proc/$1/task/$1/children" || return
    local children
    children=$(<"/proc/$1/task/$1/children")
    echo "${children%% *}"
}

# ------------------------------------------------------------------ from outside

# The login node's first process, as this machine numbers it; nothing where there is none.
login_pid() {
    local pid
    pid=$(cat "$STATE/login.pid" 2>/dev/null) || return 1
    grep -qzx -- "$SELF" "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"
}

login() {
    local pid
    pid=$(login_pid) || stop 2 "there is no cluster in $STATE; start it with: $SELF up"
    # nsenter leaves the current folder's mounts behind: go there again, inside.
    exec nsenter --target "$pid" --all env SLURM_CONF="$STATE/etc/slurm.conf" \
        bash -c 'cd "$1" && shift && exec "$@"' login "$PWD" "$@"
}

installed() {
    local name
    for name in slurmctld slurmd sbatch munged mungekey ip; do command -v "$name" >/dev/null || return; done
}

install_packages() {
    installed && return
    command -v apt-get >/dev/null || stop 2 "Slurm is not installed, and there is no apt-get to install it with"
    apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >>"$STATE/log/apt.log" 2>&1; }
    ( # one cluster of this checkout at a time: apt-get waits for no other
        flock 9
        installed && exit
        apt install -y --no-install-recommends "${PACKAGES[@]}" ||
            { apt update && apt install -y --no-install-recommends "${PACKAGES[@]}"; } ||
            stop 3 "apt-get could not install ${PACKAGES[*]}: $(grep -E '^E:' "$STATE/log/apt.log" | tail -n 1)"
    ) 9<"$ROOT"
    installed || stop 3 "the packages ${PACKAGES[*]} do not bring all of slurmctld, slurmd, sbatch, munged, mungekey and ip"
}

up() {
    [ "$(id -u)" = 0 ] || stop 2 "namespaces with networks of their own need root; repeat as root"
    if login_pid >/dev/null; then
        echo "the cluster in $STATE is up"
        return
    fi
    clear_state
    mkdir -p "$STATE"/{etc,log,spool,jobs,devices}
    : >"$STATE/etc/slurm.conf" # from here on the folder is known as ours
    install_packages
    write_configuration
    # A session of its own: a terminal's Ctrl-C does not reach it.
    FMSCI_SLURM_STATE=$STATE FMSCI_SLURM_NODES=$NODES FMSCI_SLURM_SHARE=$SHARE setsid unshare --net --uts --ipc --mount \
        --pid --fork --kill-child "$SELF" _login </dev/null >"$STATE/log/login.log" 2>&1 &
    first_child $! >"$STATE/login.pid" || stop 1 "no namespaces: $(tail -n 1 "$STATE/log/login.log")"
    if ! until_true 30 test -e "$STATE/ready"; then
        tail -n 5 "$STATE"/log/*.log >&2
        stop 1 "the nodes did not come up; see above and $STATE/log"
    fi
    (login sinfo --Node --partition main --format "%N %T %c cores %m MB %G")
}

down() {
    local pid
    if pid=$(login_pid); then
        kill -KILL "$pid" # the kernel ends every process of its namespaces with it
        until_true 20 test ! -e "/proc/$pid" || stop 1 "the process $pid does not end"
    fi
    clear_state
}

# Remove what an earlier cluster left; never a folder that is something else.
clear_state() {
    if [ -e "$STATE" ] && [ ! -e "$STATE/etc/slurm.conf" ] && [ -n "$(ls -A "$STATE")" ]; then
        stop 2 "$STATE holds something else than a cluster; name another folder in FMSCI_SLURM_STATE"
    fi
    rm -rf "$STATE"
}

# ------------------------------------------------------------------ configuration

write_configuration() {
    mungekey --create --keyfile="$STATE/etc/munge.key"
    touch "$STATE"/devices/gpu{0..3} # Slurm wants a file for each device, of whatever kind
    cat >"$STATE/etc/gres.conf" <<END
AutoDetect=off
Name=gpu File=$STATE/devices/gpu[0-3]
END
    {
        echo "127.0.0.1 localhost"
        echo "$NETWORK.1 login"
        for ((node = 1; node <= NODES; node++)); do echo "$NETWORK.$((10 + node)) node$node"; done
    } >"$STATE/etc/hosts"
    : >"$STATE/etc/resolv.conf"
    cat >"$STATE/etc/slurm.conf" <<END
ClusterName=fmsci
SlurmctldHost=login($NETWORK.1)
SlurmUser=root
SlurmdUser=root
# A requeued job waits until its old credential has expired: 120 s, were it not for cred_expire.
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=/run/munge/socket,cred_expire=5
SlurmctldPidFile=/run/slurmctld.pid
SlurmctldLogFile=$STATE/log/slurmctld.log
StateSaveLocation=$STATE/jobs
SlurmdPidFile=/run/slurmd.pid
SlurmdLogFile=$STATE/log/slurmd-%n.log
SlurmdSpoolDir=$STATE/spool/%n
SlurmdParameters=config_overrides
MailProg=/bin/true
# Without control groups nothing is bound or limited.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
# A job of the urgent partition takes the place of one of main, which hears of it as of its time limit.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
SlurmctldTimeout=30
# Not shorter: on a busy machine a node that is alive would pass for lost.
SlurmdTimeout=60
MessageTimeout=30
BatchStartTimeout=30
KillWait=5
MinJobAge=300
GresTypes=gpu
NodeName=node[1-$NODES] NodeAddr=$NETWORK.[11-$((10 + NODES))] CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=16000 Gres=gpu:4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 DefaultTime=10 MaxTime=1-0 GraceTime=10 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 DefaultTime=10 MaxTime=1-0 PreemptMode=OFF State=UP
END
    [ "$NODES" -gt 1 ] || sed -i "s/\[11-11\]/11/; s/node\[1-1\]/node1/" "$STATE/etc/slurm.conf"
}

# ------------------------------------------------------------------ inside: every host

# become HOST: host name, files of its own, and the daemon that vouches for who sends a message
become() {
    export SLURM_CONF=$STATE/etc/slurm.conf
    mount --make-rprivate /
    hostname "$1"
    mount -t proc proc /proc
    mount -t tmpfs -o mode=755 tmpfs /run
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    local name
    for name in hosts resolv.conf; do mount --bind "$STATE/etc/$name" "/etc/$name"; done
    ip link set lo up
    mkdir /run/munge
    # --force: the state folder may lie below one that others can write to, which munged would refuse.
    munged --force --key-file="$STATE/etc/munge.key" --socket=/run/munge/socket --pid-file=/run/munge/pid \
        --log-file="$STATE/log/munged-$1.log" --seed-file=/run/munge/seed 2>/dev/null
}

# Process 1 of a namespace: lives on, and takes in the orphans.
live() {
    trap 'exit 0' TERM
    while :; do
        sleep 3600 &
        wait $! || true
    done
}

login_node() {
    become login
    ip link add nodes type bridge
    ip addr add "$NETWORK.1/24" dev nodes
    ip link set nodes up
    slurmctld
    until_true 10 pings || exit 1
    local node
    for ((node = 1; node <= NODES; node++)); do start_node "$node"; done
    until_true 20 all_idle || exit 1
    touch "$STATE/ready"
    live
}

pings() { scontrol ping 2>/dev/null | grep -q "is UP"; }
all_idle() { [ "$(sinfo -h -N -p main -t idle -o %N | sort -u | wc -l)" = "$NODES" ]; }

# ------------------------------------------------------------------ inside: compute nodes, started from the login node

start_node() { # start_node N
    local name=node$1 folder=$STATE/spool/node$1 first
    mkdir -p "$folder"
    rm -rf "$folder/tmp" && mkdir -m 1777 "$folder/tmp"
    rm -f "$folder/wired" && mkfifo "$folder/wired"
    setsid unshare --net --uts --ipc --mount --pid --fork --kill-child "$SELF" _node "$1" </dev/null \
        >"$STATE/log/$name.log" 2>&1 &
    first=$(first_child $!)
    echo "$first" >"$folder/pid"
    ip link add "$name" type veth peer name eth0 netns "$first"
    ip link set "$name" master nodes up
    echo >"$folder/wired"
}

compute_node() { # compute_node N
    local folder=$STATE/spool/node$1 shared
    become "node$1"
    # Its own /tmp, with what is shared put back into it.
    for shared in $SHARE $STATE; do
        case $shared in
        /tmp/*)
            mkdir -p "$folder/tmp${shared#/tmp}"
            mount --bind "$shared" "$folder/tmp${shared#/tmp}"
            ;;
        esac
    done
    mount --rbind "$folder/tmp" /tmp
    read -r _ <"$folder/wired"
    ip addr add "$NETWORK.$((10 + $1))/24" dev eth0
    ip link set eth0 up
    slurmd -N "node$1"
    live
}

kill_node() { # kill_node N
    kill -KILL "$(cat "$STATE/spool/node$1/pid")"
    ip link delete "node$1" 2>/dev/null || true # its end inside the node is gone with it
}

shape() { # shape MBIT|off
    local node
    for ((node = 1; node <= NODES; node++)); do
        if [ "$1" = off ]; then
            tc qdisc del dev "node$node" root 2>/dev/null || true # there was none
        else
            # The switch's end of each wire. A burst of 2 ms of the rate, and not under two packets of 64 KB.
            tc qdisc replace dev "node$node" root tbf rate "$1mbit" latency 200ms \
                burst $(($1 * 250 > 131072 ? $1 * 250 : 131072))
        fi
    done
}

# ------------------------------------------------------------------ the command line

node_number() {
    case ${1:-} in
    '' | *[!0-9]* | 0) stop 2 "which node? give a number from 1 to $NODES" ;;
    esac
    [ -d "$STATE/spool/node$1" ] || stop 2 "there is no node$1 in $STATE"
}

case ${1:-} in
up) up ;;
down) down ;;
status) login bash -c 'sinfo --Node --long && squeue --long' ;;
login)
    shift
    login "$@"
    ;;
kill-node)
    node_number "${2:-}"
    login "$SELF" _kill_node "$2"
    ;;
restore-node)
    node_number "${2:-}"
    login "$SELF" _start_node "$2"
    ;;
shape)
    case ${2:-} in
    off | [1-9] | [1-9]*[0-9]) ;;
    *) stop 2 "how fast? give whole Mbit/s, or off" ;;
    esac
    login env FMSCI_SLURM_NODES="$NODES" "$SELF" _shape "$2"
    ;;
_login) login_node ;;
_node) compute_node "$2" ;;
_start_node) start_node "$2" ;;
_kill_node) kill_node "$2" ;;
_shape) shape "$2" ;;
*)
    sed -n '2,/^set /{s/^# \{0,1\}//;/^set /d;p}' "$SELF"
    exit 2
    ;;
esac
