#!/usr/bin/env bash
# Is the synthetic data worth it? Prepares the real data, generates, trains a segmenter, evaluates it on the test cases.
# Set the knobs here or in the environment: MODEL_NAME=UNet MAX_EPOCHS=20 ./run_monai_pipeline.sh
# What is finished is kept; an interrupted run goes on. Paths are relative to this folder. NUM_GPUS=4: generates and trains
# in so many processes.
set -euo pipefail

MODEL_NAME="${MODEL_NAME:-SwinUNETR}"            # SwinUNETR, nnUNet, UNet, nnUNetv2
MAX_EPOCHS="${MAX_EPOCHS:-200}"
BATCH_SIZE="${BATCH_SIZE:-2}"                    # of the training
LEARNING_RATE="${LEARNING_RATE-1e-4}"            # LEARNING_RATE= (empty): 0.01 for nnUNet, else 0.001, which suit these models better
METHOD_NAME="${METHOD_NAME:-LeFusion-H}"         # with _ for -: datasets/<method>_N_prime, rows <method>_P+N_prime
GENERATION_BATCH_SIZE="${GENERATION_BATCH_SIZE:-4}" # images painted at once (the original calls this BATCH_SIZE, too), or auto
TYPES="${TYPES:-3}"                              # synthetic images of each case, one for each texture of the data type; 0: real
                                                 # data only. More than textures: GENERATION_OPTIONS=condition=mixture
VAL_OVERLAP="${VAL_OVERLAP:-0.75}"               # of sliding windows
CACHE_RATE="${CACHE_RATE:-0.5}"                  # share of the cases held in memory

DATA_TYPE="${DATA_TYPE:-lidc}"                   # lidc, emidec or another of configs/data_type
# ../data/LIDC-IDRI does as well
REAL_IMAGE_DIR="${REAL_IMAGE_DIR:-../data/LIDC/Pathological/Image}"
REAL_MASK_DIR="${REAL_MASK_DIR:-../data/LIDC/Pathological/Mask}"
TEST_TXT="${TEST_TXT:-../data/LIDC/Pathological/test.txt}"
SOURCE_DIR="${SOURCE_DIR:-../data/LIDC/Normal/Image}" # what lesions are painted into
FOLD="${FOLD:-0}"                                # of five, for validation; all: none. Names end in _fold<FOLD> unless it is 0,
SEED="${SEED:-0}"                                # and in _seed<SEED> unless it is 0
WORK_DIR="${WORK_DIR:-.}"                        # datasets/, trained_models/, predictions/, logs/ and evaluation_results.csv
GENERATION_OPTIONS="${GENERATION_OPTIONS:-}"     # further Hydra overrides of inference.py
TRAINING_OPTIONS="${TRAINING_OPTIONS:-}"         # further options of run_segmentation_training.py
EVALUATION_OPTIONS="${EVALUATION_OPTIONS:-}"     # and of run_segmentation_evaluation.py

cd "$(dirname "${BASH_SOURCE[0]}")"
source ../setup_env.sh

method="${METHOD_NAME//-/_}"
arm="${method}_P+N_prime"
if [ "$TYPES" = 0 ]; then arm=P; fi
ending=""
if [ "$FOLD" != 0 ]; then ending="_fold$FOLD"; fi
if [ "$SEED" != 0 ]; then ending="${ending}_seed$SEED"; fi
real="$WORK_DIR/datasets/$(tr "[:lower:]" "[:upper:]" <<< "$DATA_TYPE")_real"
synthetic="$WORK_DIR/datasets/${method}_N_prime"
run="${arm}_$MODEL_NAME$ending"
model="$WORK_DIR/trained_models/$run"
logs="$WORK_DIR/logs/$run"
mkdir -p "$logs"

step() {  # step <name> <command...>: shows and logs it; a failure ends the pipeline
    echo "== $1 (log: $logs/$1.log)"
    "${@:2}" 2>&1 | tee "$logs/$1.log"
}

hydra() {  # a path as a value of Hydra: quoted, for names such as P+N'
    printf "'%s'" "${1//\'/\\\'}"
}

# No lesion is painted into test cases and other scans of their patients; training would refuse the images
held_out="$synthetic/held_out.txt"
generation=()
synthetic_data="$synthetic"
if [ "$TYPES" != 0 ]; then
    # shellcheck disable=SC2206  # options are several words, here and below
    generation=(data_type="$DATA_TYPE" dataset_root_dir="$(hydra "$SOURCE_DIR")" test_txt_dir="$(hydra "$held_out")"
        target_img_path="$(hydra "$synthetic/imagesTr")" target_label_path="$(hydra "$synthetic/labelsTr")"
        batch_size="$GENERATION_BATCH_SIZE" types="$TYPES" $GENERATION_OPTIONS)
else
    synthetic_data=none
fi
# shellcheck disable=SC2206
training=(--real_data_dir "$real" --synthetic_data_dir "$synthetic_data"
    --model_name "$MODEL_NAME" --output_model_dir "$model" --fold "$FOLD" --seed "$SEED" --max_epochs "$MAX_EPOCHS"
    --batch_size "$BATCH_SIZE" ${LEARNING_RATE:+--learning_rate "$LEARNING_RATE"} --cache_rate "$CACHE_RATE"
    --val_overlap "$VAL_OVERLAP" $TRAINING_OPTIONS)
# shellcheck disable=SC2206
evaluation=(--test_data_dir "$real" --gt_dir "$real/labelsTs"
    --trained_model_path "$model/best_model.pt" --model_name "$MODEL_NAME"
    --output_pred_dir "$WORK_DIR/predictions/$run" --results_csv "$WORK_DIR/evaluation_results.csv"
    --experiment_name "$arm$ending" --val_overlap "$VAL_OVERLAP" $EVALUATION_OPTIONS)

step check "$PYTHON" check_knobs.py ${generation[@]+"${generation[@]}"} -- "${training[@]}" -- "${evaluation[@]}"

step prepare "$PYTHON" prepare_real_dataset.py --source_image_dir "$REAL_IMAGE_DIR" --source_mask_dir "$REAL_MASK_DIR" \
    --test_txt_path "$TEST_TXT" --output_dir "$real" --data_type "$DATA_TYPE"

if [ "$TYPES" != 0 ]; then
    step hold_out "$PYTHON" held_out_sources.py --source_dir "$SOURCE_DIR" --test_txt_path "$TEST_TXT" --output_txt "$held_out"
    step generate lefusion_launch ../LeFusion/inference/inference.py "${generation[@]}"
fi

step train lefusion_launch run_segmentation_training.py "${training[@]}"

step evaluate "$PYTHON" run_segmentation_evaluation.py "${evaluation[@]}"

echo "results: $WORK_DIR/evaluation_results.csv, logs: $logs"
