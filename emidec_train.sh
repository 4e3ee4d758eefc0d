#!/usr/bin/env bash
# Trains the network for infarct and no-reflow; arguments are Hydra overrides (./emidec_train.sh --help lists them).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/setup_env.sh"
lefusion_launch "$here/LeFusion/train/train.py" data_type=emidec "$@"
