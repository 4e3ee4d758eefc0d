#!/usr/bin/env bash
# Paints nodules into the bundled lung regions and infarcts into the bundled hearts, with the bundled weights. The pictures to
# look at are outputs/demo/Image/preview.png and outputs/demo/hearts/Image/preview.png. No download is needed, and no GPU.
# Settings key=value are those of both: ./demo.sh types=1 (./lidc_inference.sh --help lists them).
set -euo pipefail
case " $* " in *" --help "* | *" -h "*) sed -n 's/^# //p' "${BASH_SOURCE[0]}"; exit ;; esac
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
"$here/lidc_inference.sh" +demo=lidc "$@"
"$here/emidec_inference.sh" +demo=emidec "$@"
echo "look at $here/outputs/demo/Image/preview.png and $here/outputs/demo/hearts/Image/preview.png"
