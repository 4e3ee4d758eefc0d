#!/usr/bin/env bash
# Runs the tests in TEST_PROCESSES processes; arguments go to pytest (for example: ./run_tests.sh -m slow).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
LEFUSION_EXTRA=dev source "$here/setup_env.sh"
cd "$here" && exec "$PYTHON" -m pytest -n "${TEST_PROCESSES:-2}" "$@"
