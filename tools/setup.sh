#!/usr/bin/env bash
# Makes .venv with the exact versions of tools/lock.txt and this checkout in it; well under a second when nothing changed.
#
#   bash tools/setup.sh               only sets up
#   . tools/setup.sh || exit          sets up, then puts .venv first on PATH (how quickstart.sh and test.sh begin)
#   PYTHON=python3.12 bash tools/setup.sh     with a Python of your choice, 3.10 or newer
#
# Options of pip are taken from the environment as usual: PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_CERT ... A torch built
# for CPUs alone is much the smaller download: name an index of such builds in PIP_EXTRA_INDEX_URL, or a folder in PIP_FIND_LINKS.
# Exit codes: 0 done, 2 something is missing that only you can install, anything else failed.

# The work runs in a subshell, so that nothing but the environment at the end reaches a script that sources this one.
(
    set -uo pipefail

    SCRIPT=${BASH_SOURCE[0]:-$0}
    ROOT=$(cd "$(dirname "$SCRIPT")/.." && pwd -P) || exit 1
    cd "$ROOT" || exit 1
    VENV=$ROOT/.venv
    LOCK=tools/lock.txt
    STAMP=$VENV/setup.stamp           # what this .venv was made for; written last
    UNFINISHED=$VENV/setup.unfinished # pip is at work, or was killed at it: .venv is not to be trusted
    LOG=$VENV/setup.log               # all that pip said the last time

    # What the user's shell has active must not leak into .venv: module paths, another environment, other targets for pip.
    unset PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_VIRTUALENV
    PATH=:$PATH:
    for leak in "${VIRTUAL_ENV:-$VENV}/bin" "$VENV/bin"; do PATH=${PATH//":$leak:"/:}; done
    PATH=${PATH#:} PATH=${PATH%:}
    unset VIRTUAL_ENV
    # DeepSpeed compiles none of its own kernels: training takes torch's optimizers and collectives.
    export DS_BUILD_OPS=0

    say() { printf 'set-up: %s\n' "$*"; }
    stop() { # stop CODE SENTENCE
        printf 'set-up: %s\n' "$2" >&2
        exit "$1"
    }

    # ------------------------------------------------------------------------------------------ what .venv is, in two lines
    # Where it lies and its Python: scripts in it hold that path, so a change of either means a new one. Prints nothing
    # where .venv cannot run or lacks a package (a cheap look, no imports).
    place() {
        "$VENV/bin/python" - <<'PYTHON' 2>/dev/null
import sys
from importlib.util import find_spec
for name in "deepspeed fmsci h5py matplotlib mpi4py numpy pip pydantic pytest rich safetensors tensorboard torch typer yaml".split():
    assert find_spec(name), name
print("%d.%d" % sys.version_info[:2], sys.prefix)
PYTHON
    }
    # What it was made from: a change of these is installed on top.
    KERNELS=fmsci/model/kernels
    inputs() {
        {
            cat "$LOCK" setup.py tools/setup.sh $KERNELS/*.c $KERNELS/*.h
            compgen -G "$KERNELS/_cpu*.so" # compiled here, and not lost since
            command -v gcc >/dev/null && echo "a compiler"
        } 2>/dev/null | cksum
    }
    version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

    # Can this .venv be built upon? A Python that the user names must be the one inside.
    sound() {
        local now
        [ -e "$STAMP" ] && [ ! -e "$UNFINISHED" ] || return 1
        now=$(place) && [ "$now" = "$(sed -n 1p "$STAMP")" ] || return 1
        [ -z "${PYTHON:-}" ] || [ "$now" = "$(version_of "$PYTHON") $VENV" ]
    }
    complete() { sound && [ "$(inputs)" = "$(sed -n 2p "$STAMP")" ]; }

    complete && exit 0

    # ------------------------------------------------------------------------------------------ a Python with venv
    recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

    # Prints the first Python that is recent enough.
    find_python() {
        local name
        for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10; do
            if recent "$name"; then
                echo "$name"
                return 0
            fi
            [ -z "${PYTHON:-}" ] || return 1
        done
        return 1
    }

    # Debian and Ubuntu split venv off Python. Installs PACKAGE... as root; else says the one line that does.
    apt_install() {
        local line="apt-get install -y $*"
        if [ "$(id -u)" != 0 ]; then
            stop 2 "$* must be installed first: sudo $line"
        fi
        say "installing $* with apt-get"
        if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"; } >/dev/null; then
            stop 2 "apt-get could not install $*; see its message above, then repeat: $line"
        fi
    }

    if ! python=$(find_python); then
        if [ -n "${PYTHON:-}" ]; then
            stop 2 "PYTHON=$PYTHON is not a Python 3.10 or newer; name another one or leave PYTHON unset"
        fi
        if found=$(version_of python3); then
            stop 2 "Python 3.10 or newer is needed and python3 is $found: install a newer one, then name it if it is not on PATH: PYTHON=/path/to/python3.12 bash tools/setup.sh"
        fi
        command -v apt-get >/dev/null || stop 2 "there is no Python: install Python 3.10 or newer, with its venv module"
        apt_install python3 python3-venv
        python=$(find_python) || stop 2 "the python3 that apt-get installs here is older than 3.10: install a newer Python and name it: PYTHON=/path/to/python3.12 bash tools/setup.sh"
    fi
    version=$(version_of "$python")

    has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
    if ! has_venv; then
        command -v apt-get >/dev/null || stop 2 "$python has no venv module: install it, or name another Python: PYTHON=/path/to/python3.12 bash tools/setup.sh"
        apt_install "python$version-venv"
        has_venv || stop 2 "$python has no venv module, even with python$version-venv installed: name another Python: PYTHON=/usr/bin/python3 bash tools/setup.sh"
    fi

    # ------------------------------------------------------------------------------------------ one set-up at a time
    # The lock belongs to the open file, so it outlives the Python that takes it and ends with the last process that has the
    # file open: a pip left behind by a killed set-up still holds it. (No flock command: macOS has none.)
    exec 9<>"$LOCK" || stop 1 "$ROOT/$LOCK cannot be opened for writing: set up in a checkout that is yours"
    lock() { "$python" -c "import fcntl; fcntl.flock(9, fcntl.LOCK_EX$1)" 2>/dev/null 9<&9; }
    if ! lock '|fcntl.LOCK_NB'; then
        say "another set-up of this checkout is at work; waiting for it"
        lock '' || stop 1 "the file system of $ROOT cannot lock files: set up in a checkout on another one"
    fi
    complete && exit 0

    # ------------------------------------------------------------------------------------------ make .venv
    began=$SECONDS
    if ! sound; then
        if [ -e "$VENV" ]; then
            say "making .venv anew with Python $version (the old one is unfinished, damaged, moved, or of another Python)"
            rm -rf "$VENV" || stop 1 "$VENV cannot be removed; remove it and repeat"
        else
            say "making .venv with Python $version (some minutes, most of it torch)"
        fi
        output=$("$python" -m venv "$VENV" 2>&1) || stop 1 "$python cannot make .venv: $(tail -n 1 <<<"$output")"
    fi

    # Shows what pip is at: one line that changes on a terminal, a line now and then in a log file.
    progress() {
        local line name count=0 total wide='' shown=$SECONDS
        total=$(($(sed '/^#/d' "$LOCK" | wc -l))) # macOS pads it with blanks
        [ -t 1 ] && wide=1
        trap '' INT # Ctrl-C ends pip, and with it this
        while IFS= read -r line; do
            printf '%s\n' "$line" >>"$LOG"
            case $line in
            "Ignoring "*": markers "*) # a line of the lock file for another Python
                total=$((total - 1))
                continue
                ;;
            "Requirement already satisfied"*"(from -r "*)
                count=$((count + 1))
                continue
                ;;
            "Collecting "* | "Processing "*) # the second, where it is a file of a folder
                count=$((count + 1)) name=${line#* } name=${name%% (*} name=${name##*/}
                line="package $count of $((count > total ? count : total)): $name"
                ;;
            *Downloading*MB* | *Downloading*GB*) line=${line#*Downloading } line="downloading ${line%%-*} (${line##*(}" ;;
            "Installing collected packages"*) [ "$count" -gt 0 ] && line="unpacking $count packages" shown=0 || continue ;;
            *) continue ;;
            esac
            if [ "$wide" ]; then
                printf '\r\033[Kset-up: %.70s' "$line"
            elif [ "$shown" = 0 ] || [ "$SECONDS" -ge $((shown + 10)) ]; then
                say "$line"
                shown=$SECONDS
            fi
        done
        [ "$wide" ] && printf '\r\033[K'
        return 0
    }

    # install WHAT OPTION...: pip, with the reason of a failure in one sentence
    install() {
        local what=$1 why
        shift
        : >"$LOG"
        if ! "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@" 2>&1 | progress; then
            why=$(sed -n -E 's/^ *(ERROR|error): //p' "$LOG" | tail -n 1)
            if grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|Network is unreachable|name resolution' "$LOG"; then
                why="the package index cannot be reached, check the network or the proxy"
            elif grep -q 'Operation cancelled by user' "$LOG"; then
                stop 130 "interrupted; the next call goes on"
            elif grep -q 'No space left on device' "$LOG"; then
                why="no space left on the disk"
            fi
            # Up to this line of pip's nothing in .venv was touched: what it held before still serves.
            grep -q '^Installing collected packages' "$LOG" || rm -f "$UNFINISHED"
            stop 1 "pip could not install $what: ${why:-it was interrupted}; its whole output is in .venv/setup.log"
        fi
    }

    say "installing the packages of $LOCK"
    : >"$UNFINISHED"
    install "the packages of $LOCK" -r "$LOCK"
    rm -f $KERNELS/_cpu*.so $KERNELS/_pointwise*.so # where it cannot be compiled anew, an old one does not serve
    # -v: what a compiler says, if it cannot make the pass, is to be found in the log.
    # compat: found by its path, before any folder named fmsci that the current one may hold, such as the checkout itself.
    install "this checkout" -v --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
    now=$(place) || stop 1 ".venv is not complete after a set-up without errors; remove it and repeat: rm -rf .venv"
    if [ "$(uname -sm)" = "Linux x86_64" ] && ! compgen -G "$KERNELS/_cpu*.so" >/dev/null; then
        say "no C compiler served (.venv/setup.log has its words), so training 1M on a CPU takes a third more time; with one (gcc), set up again"
    fi
    rm -f "$UNFINISHED"
    printf '%s\n%s\n' "$now" "$(inputs)" >"$STAMP.new" && mv "$STAMP.new" "$STAMP"
    say "done in $((SECONDS - began)) s"
) || {
    status=$?
    return $status 2>/dev/null || exit $status # sourced: return; run: exit
}

unset PYTHONPATH PYTHONHOME
VIRTUAL_ENV=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd -P)/.venv
export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
