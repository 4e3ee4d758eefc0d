#!/usr/bin/env bash
# Inserts lesions into whole scans: ./insert_lesions.sh INPUT OUTPUT [key=value ...] (--help lists the keys).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/setup_env.sh"
lefusion_launch "$here/LeFusion/inference/insert.py" "$@"
