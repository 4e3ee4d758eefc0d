#!/usr/bin/env bash
# All figures that need a GPU, with one command; tables go to OUT (default outputs/gpu). DATA (optional) is a folder of
# real lesions (Image/, Mask/, test.txt): with it, the quality over network calls of the released weights (WEIGHTS), too.
#
#   DATA=data/LIDC/Pathological WEIGHTS=LeFusion/LeFusion_Model/LIDC/lidc.pt benchmarks/gpu.sh
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../setup_env.sh"
OUT="${OUT:-outputs/gpu}"
failed=0  # a variant that fails is a row of its table, and the others are still measured

"$PYTHON" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "error: no GPU is seen")'
# The network: every optimisation on and off, one region and eight
for batch in 1 8; do
    "$PYTHON" "$here/network.py" --device cuda --compile --batch "$batch" --out "$OUT/network-batch$batch" || failed=1
done
# A region from noise to HU, one at a time and in batches, against RePaint with the plain network
for batch in 1 32; do
    "$PYTHON" "$here/region.py" --device cuda --batch "$batch" --full --out "$OUT/region-batch$batch" || failed=1
done
# Training, with the paper's batches
"$PYTHON" "$here/training.py" --device cuda --compile --batch 20 --accumulate 2 --steps 50 --out "$OUT/training" || failed=1
if [ -n "${DATA:-}" ]; then
    "$PYTHON" "$here/quality.py" --data "$DATA" --out "$OUT/quality" test_txt_dir="$DATA/test.txt" split=test \
        ${WEIGHTS:+model_path="$WEIGHTS"} || failed=1
fi
echo "tables are in $OUT"
exit "$failed"
