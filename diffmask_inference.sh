#!/usr/bin/env bash
# Makes lesion masks for scans; arguments are Hydra overrides (./diffmask_inference.sh --help lists them).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/setup_env.sh"
lefusion_launch "$here/DiffMask/inference/inference.py" "$@"
