#!/usr/bin/env bash
# Paints lung nodules; arguments are Hydra overrides (./lidc_inference.sh --help lists them).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/setup_env.sh"
lefusion_launch "$here/LeFusion/inference/inference.py" "$@"
