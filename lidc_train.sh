#!/usr/bin/env bash
# Trains the lung nodule network; arguments are Hydra overrides (./lidc_train.sh --help lists them).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/setup_env.sh"
lefusion_launch "$here/LeFusion/train/train.py" "$@"
