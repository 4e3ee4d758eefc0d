#!/usr/bin/env bash
# Sourced by every script: leaves in $PYTHON an interpreter that has the requirements and the project, and defines
# lefusion_launch, which starts a Python script in as many processes as NUM_GPUS and NNODES say.
# Uses the active Python if it has both, else makes .venv beside this file (once; again when the requirements change).
# With LEFUSION_EXTRA=dev what the tests need counts as well (requirements-dev.txt).
LEFUSION_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

lefusion_ready() {  # does this interpreter hold the project of this folder, and every requirement of it?
    "$1" - "$LEFUSION_ROOT" "${LEFUSION_EXTRA:-}" <<'PYTHON_CODE' 2>/dev/null
import importlib.metadata as metadata
import importlib.util
import pathlib
import sys

from packaging.requirements import Requirement

package = importlib.util.find_spec("LeFusion")
root = pathlib.Path(sys.argv[1]).resolve()
ready = package is not None and root in pathlib.Path(package.origin).resolve().parents
for text in metadata.requires("lefusion"):
    need = Requirement(text)
    if need.marker is None or need.marker.evaluate({"extra": sys.argv[2]}):
        ready = ready and need.specifier.contains(metadata.version(need.name), prereleases=True)
sys.exit(not ready)
PYTHON_CODE
}

lefusion_setup() {
    local active stamp installed file=requirements.txt venv="$LEFUSION_ROOT/.venv"
    active="${PYTHON:-$(command -v python || command -v python3 || true)}"
    if [ -n "$active" ] && (cd / && lefusion_ready "$active"); then
        PYTHON="$active"
        return
    fi
    [ -z "${LEFUSION_EXTRA:-}" ] || file="requirements-$LEFUSION_EXTRA.txt"
    installed="$venv/installed-$file"
    stamp="$(cat "$LEFUSION_ROOT"/requirements*.txt "$LEFUSION_ROOT/pyproject.toml" | cksum)"
    if [ ! -x "$venv/bin/python" ] || [ "$(cat "$installed" 2>/dev/null)" != "$stamp" ]; then
        active="$(command -v python3 || command -v python)" || { echo "error: Python 3.10 or newer is needed" >&2; return 1; }
        "$active" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
            echo "error: $active is $("$active" --version); Python 3.10 or newer is needed" >&2
            return 1
        }
        echo "setting up $venv (once; some minutes)"
        "$active" -m venv "$venv" || return 1
        (cd "$LEFUSION_ROOT" && "$venv/bin/python" -m pip install --quiet --requirement "$file") || return 1
        echo "$stamp" > "$installed"
        echo "$stamp" > "$venv/installed-requirements.txt"  # which every other list holds
    fi
    PYTHON="$venv/bin/python"
}

# torchrun, but for how it ends: without a traceback of its own, and with the exit code of the process that failed, or
# 128 + the signal that stopped it, so that a batch script can tell a stopped run from a failed one.
LEFUSION_TORCHRUN='
import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import main

try:
    main()
except SignalException as stop:
    sys.exit(128 + int(stop.sigval))
except ChildFailedError as error:
    failed = error.failures.values()
    first = min(failed, key=lambda failure: (failure.exitcode == -15, failure.timestamp))  # -15: ended by torchrun
    code = first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    print(f"process {first.local_rank} on this machine ended with exit code {code}", file=sys.stderr)
    sys.exit(code)
except RendezvousError as error:
    print(f"error: the machines did not find each other: {error}", file=sys.stderr)
    sys.exit(1)
'

# lefusion_launch script.py arguments...: replaces this shell by one process or, with NUM_GPUS or NNODES above 1, by
# torchrun with a process for each GPU. On several nodes start it on each, with MASTER_ADDR (the first node's name).
# A process that dies is started again up to MAX_RESTARTS times (with all others), and goes on where it was.
lefusion_launch() {
    local gpus="${NUM_GPUS:-1}" nodes="${NNODES:-1}" restarts="${MAX_RESTARTS:-0}" number
    for number in "$gpus" "$nodes"; do
        if ! [[ "$number" =~ ^[1-9][0-9]*$ ]]; then
            echo "error: NUM_GPUS=$gpus NNODES=$nodes must be whole numbers above 0" >&2
            return 1
        fi
    done
    if ! [[ "$restarts" =~ ^[0-9]+$ ]]; then
        echo "error: MAX_RESTARTS=$restarts must be a whole number" >&2
        return 1
    fi
    if [ "$gpus" = 1 ] && [ "$nodes" = 1 ]; then
        exec "$PYTHON" "$@"
    fi
    # On a stop signal a process finishes its step (or sheet of samples) and saves: half a minute may be too short
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}"
    local torchrun=("$PYTHON" -c "$LEFUSION_TORCHRUN" --nnodes "$nodes" --nproc_per_node "$gpus"
        --max_restarts "$restarts")
    if [ "$nodes" = 1 ]; then
        exec "${torchrun[@]}" --standalone "$@"
    fi
    if [ -z "${MASTER_ADDR:-}" ]; then
        echo "error: NNODES=$nodes needs MASTER_ADDR, the name of the first node (docs/cluster.md)" >&2
        return 1
    fi
    exec "${torchrun[@]}" --rdzv_backend c10d --rdzv_endpoint "$MASTER_ADDR:${MASTER_PORT:-29400}" \
        --rdzv_id "${SLURM_JOB_ID:-lefusion}" "$@"
}

# Large temporaries go back to the system and are asked for again at every step otherwise, page by page
# (glibc; measured in benchmarks/network.py --allocator both)
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-1073741824}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-4294967296}"
export MALLOC_TOP_PAD_="${MALLOC_TOP_PAD_:-268435456}"
# Threads that wait for each other soon give their core away: on cores that others use, long spinning costs several times the work
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-2000}"

lefusion_setup
