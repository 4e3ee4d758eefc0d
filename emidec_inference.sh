#!/usr/bin/env bash
# Paints infarct and no-reflow into hearts; arguments are Hydra overrides (./emidec_inference.sh --help lists them).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/setup_env.sh"
lefusion_launch "$here/LeFusion/inference/inference.py" data_type=emidec "$@"
