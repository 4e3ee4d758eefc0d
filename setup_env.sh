#!/usr/bin/env bash
# Sourced by every script: leaves in $PYTHON an interpreter that has the requirements and the project.
# Uses the active Python if it has both, else makes .venv beside this file (once; again when the requirements change).
LEFUSION_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

lefusion_ready() {  # does this interpreter hold the project of this folder, and every requirement of it?
    "$1" - "$LEFUSION_ROOT" <<'PYTHON_CODE' 2>/dev/null
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
    if need.marker is None or need.marker.evaluate({"extra": "dev"}):
        ready = ready and need.specifier.contains(metadata.version(need.name), prereleases=True)
sys.exit(not ready)
PYTHON_CODE
}

lefusion_setup() {
    local active stamp venv="$LEFUSION_ROOT/.venv"
    active="${PYTHON:-$(command -v python || command -v python3 || true)}"
    if [ -n "$active" ] && (cd / && lefusion_ready "$active"); then
        PYTHON="$active"
        return
    fi
    stamp="$(cat "$LEFUSION_ROOT/requirements.txt" "$LEFUSION_ROOT/pyproject.toml" | cksum)"
    if [ ! -x "$venv/bin/python" ] || [ "$(cat "$venv/installed" 2>/dev/null)" != "$stamp" ]; then
        active="$(command -v python3 || command -v python)" || { echo "error: Python 3.10 or newer is needed" >&2; return 1; }
        "$active" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
            echo "error: $active is $("$active" --version); Python 3.10 or newer is needed" >&2
            return 1
        }
        echo "setting up $venv (once; some minutes)"
        "$active" -m venv "$venv" || return 1
        "$venv/bin/python" -m pip install --quiet --requirement "$LEFUSION_ROOT/requirements.txt" || return 1
        "$venv/bin/python" -m pip install --quiet --no-deps --editable "$LEFUSION_ROOT" || return 1
        echo "$stamp" > "$venv/installed"
    fi
    PYTHON="$venv/bin/python"
}

lefusion_setup
