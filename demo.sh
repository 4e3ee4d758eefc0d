#!/usr/bin/env bash
# Paints nodules into the bundled lung regions and infarcts into the bundled hearts, with the bundled weights, into
# outputs/demo. Arguments are Hydra overrides for both.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out="$here/outputs/demo"
"$here/lidc_inference.sh" model_path="$here/LeFusion/LeFusion_Model/LIDC/lidc_edit.safetensors" \
    dataset_root_dir="$here/data/demo/LIDC/Normal" \
    target_img_path="$out/Image" target_label_path="$out/Mask" "$@"
"$here/emidec_inference.sh" model_path="$here/LeFusion/LeFusion_Model/EMIDEC/emidec_small.safetensors" \
    dataset_root_dir="$here/data/demo/EMIDEC/Normal" \
    lesions_from="$here/data/demo/EMIDEC/Pathological" donors_test_txt=null \
    target_img_path="$out/hearts/Image" target_label_path="$out/hearts/Mask" "$@"
echo "look at $out/Image/preview.png and $out/hearts/Image/preview.png"
