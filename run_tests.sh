#!/usr/bin/env bash
# Runs the tests; arguments go to pytest (for example: ./run_tests.sh -m slow).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/setup_env.sh"
cd "$here" && exec "$PYTHON" -m pytest "$@"
