#!/usr/bin/env bash
# Paints nodules into the bundled lung regions and infarcts into the bundled hearts, with the bundled weights, into
# outputs/demo. Arguments are Hydra overrides for both.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
"$here/lidc_inference.sh" +demo=lidc "$@"
"$here/emidec_inference.sh" +demo=emidec "$@"
echo "look at $here/outputs/demo/Image/preview.png and $here/outputs/demo/hearts/Image/preview.png"
