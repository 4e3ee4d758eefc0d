#!/usr/bin/env bash
# Trains and judges segmenters on real data alone and with several synthetic data sets, over several seeds: the table behind
# "what is the synthetic data worth?". All runs are checked before the first is trained. The same command goes on where it
# stopped; other settings or data in the same WORK_DIR are refused. Every training makes the same number of updates.
# NUM_GPUS=4 trains in so many processes.
#
#   REAL_DIR=datasets/real ARMS="P=none P+N'=datasets/N P+P'+N'=datasets/P,datasets/N" ./run_comparison.sh
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

REAL_DIR="${REAL_DIR:?the folder that prepare_real_dataset.py made}"
ARMS="${ARMS:?experiments as name=folder[,folder...], none for real data alone}"
MODEL_NAMES="${MODEL_NAMES:-SwinUNETR nnUNet}"
SEEDS="${SEEDS:-0 1 2}"                 # run s has seed s and validates on fold s
REAL_COUNTS="${REAL_COUNTS:-}"          # a learning curve: numbers of real training cases, e.g. "8 15 30 61"; empty: all
MAX_EPOCHS="${MAX_EPOCHS:-100}"
STEPS_PER_EPOCH="${STEPS_PER_EPOCH:-60}"
TRAINING_OPTIONS="${TRAINING_OPTIONS:-}"      # e.g. "--model_size small --amp"
SYNTHETIC_OPTIONS="${SYNTHETIC_OPTIONS:-}"    # of the arms with synthetic data, e.g. "--synthetic_share 0.5"
EVALUATION_OPTIONS="${EVALUATION_OPTIONS:-}"  # e.g. "--no_mirroring"
WORK_DIR="${WORK_DIR:-comparison}"      # models, predictions, logs, results.csv, compare.py's tables
BASELINE="${BASELINE:-P}"               # the arm that the others are compared with

source "$here/../setup_env.sh"
runs=()
for seed in $SEEDS; do
  for model in $MODEL_NAMES; do
    for count in ${REAL_COUNTS:-""}; do
      for arm in $ARMS; do runs+=("$seed $model $arm $count"); done
    done
  done
done

options_of() {  # options_of "<seed> <model> <arm> <count>": sets model, name, training, evaluation and log
  local seed arm count arm_name folders synthetic=()
  read -r seed model arm count <<< "$1"
  arm_name="${arm%%=*}"
  IFS=, read -r -a folders <<< "${arm#*=}"
  name="${arm_name}${count:+_n$count}_seed${seed}"
  # shellcheck disable=SC2206  # options are several words, here and below
  [[ "${folders[0]}" == none ]] || synthetic=($SYNTHETIC_OPTIONS)
  # shellcheck disable=SC2206
  training=(--real_data_dir "$REAL_DIR" --synthetic_data_dir "${folders[@]}" --model_name "$model"
    --output_model_dir "$WORK_DIR/models/${model}_$name" --fold "$seed" --seed "$seed" --max_epochs "$MAX_EPOCHS"
    --steps_per_epoch "$STEPS_PER_EPOCH" $TRAINING_OPTIONS ${synthetic[@]+"${synthetic[@]}"} ${count:+--real_count "$count"})
  # shellcheck disable=SC2206
  evaluation=(--test_data_dir "$REAL_DIR/imagesTs" --gt_dir "$REAL_DIR/labelsTs"
    --trained_model_path "$WORK_DIR/models/${model}_$name/best_model.pt" --model_name "$model" --experiment_name "$name"
    --output_pred_dir "$WORK_DIR/predictions/${model}_$name" --results_csv "$WORK_DIR/results.csv" $EVALUATION_OPTIONS)
  log="$WORK_DIR/logs/${model}_$name.log"
}

arms=()
for arm in $ARMS; do arms+=("${arm%%=*}"); done
if [[ " ${arms[*]} " != *" $BASELINE "* ]]; then
  echo "error: BASELINE=$BASELINE is none of the arms ${arms[*]}" >&2
  exit 1
fi
all=()
for run in "${runs[@]}"; do
  options_of "$run"
  all+=("${training[@]}" -- "${evaluation[@]}" --)
done
"$PYTHON" "$here/check_comparison.py" "${all[@]}"

mkdir -p "$WORK_DIR/logs"
for i in "${!runs[@]}"; do
  options_of "${runs[i]}"
  echo "== run $((i + 1)) of ${#runs[@]}: $model, $name (log: $log)"
  lefusion_launch "$here/run_segmentation_training.py" "${training[@]}" 2>&1 | tee "$log" | tail -n 1
  "$PYTHON" "$here/run_segmentation_evaluation.py" "${evaluation[@]}" 2>&1 | tee -a "$log" | tail -n 1
done
"$PYTHON" "$here/compare.py" --results_csv "$WORK_DIR/results.csv" --experiments "${arms[@]}" --baseline "$BASELINE" \
  --group_by_prefix ${REAL_COUNTS:+--by_count} --output_dir "$WORK_DIR/tables"
