#!/usr/bin/env bash
# Paints three types of nodule into each of the bundled lung regions, with the bundled weights, into outputs/demo.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
"$here/lidc_inference.sh" dataset_root_dir="$here/data/demo/LIDC/Normal" sampler=dpmpp \
    target_img_path="$here/outputs/demo/Image" target_label_path="$here/outputs/demo/Mask" "$@"
echo "look at $here/outputs/demo/Image/preview.png"
