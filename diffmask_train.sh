#!/usr/bin/env bash
# Trains the mask network; arguments are Hydra overrides (./diffmask_train.sh --help lists them).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/setup_env.sh"
lefusion_launch "$here/DiffMask/train/train.py" "$@"
