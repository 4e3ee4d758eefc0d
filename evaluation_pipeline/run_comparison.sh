#!/usr/bin/env bash
# Trains and judges segmenters on real data alone and with several synthetic data sets, over several seeds: the table behind
# "what is the synthetic data worth?". What is trained and judged is not trained and judged again; other settings or data in the same WORK_DIR
# are refused. Every training makes the same number of updates. NUM_GPUS=4 trains in so many processes.
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
mkdir -p "$WORK_DIR/logs"
runs=()
for count in ${REAL_COUNTS:-""}; do
  for arm in $ARMS; do runs+=("$arm $count"); done
done
for seed in $SEEDS; do
  for model in $MODEL_NAMES; do
    for arm_and_count in "${runs[@]}"; do
      read -r arm count <<< "$arm_and_count"
      name="${arm%%=*}"
      IFS=, read -r -a folders <<< "${arm#*=}"
      options="$TRAINING_OPTIONS"
      if [[ "${folders[0]}" != none ]]; then options="$options $SYNTHETIC_OPTIONS"; fi
      if [[ -n "$count" ]]; then options="$options --real_count $count"; fi
      run="${name}${count:+_n$count}_seed${seed}"
      folder="$WORK_DIR/models/${model}_${run}"
      echo "== $model, $run"
      # shellcheck disable=SC2086  # options are several words
      lefusion_launch "$here/run_segmentation_training.py" --real_data_dir "$REAL_DIR" --synthetic_data_dir "${folders[@]}" \
        --model_name "$model" --output_model_dir "$folder" --fold "$seed" --seed "$seed" \
        --max_epochs "$MAX_EPOCHS" --steps_per_epoch "$STEPS_PER_EPOCH" $options \
        2>&1 | tee "$WORK_DIR/logs/${model}_${run}.log" | tail -n 1
      # shellcheck disable=SC2086
      "$PYTHON" "$here/run_segmentation_evaluation.py" --test_data_dir "$REAL_DIR/imagesTs" --gt_dir "$REAL_DIR/labelsTs" \
        --trained_model_path "$folder/best_model.pt" --model_name "$model" --experiment_name "$run" \
        --output_pred_dir "$WORK_DIR/predictions/${model}_${run}" --results_csv "$WORK_DIR/results.csv" $EVALUATION_OPTIONS \
        2>&1 | tee -a "$WORK_DIR/logs/${model}_${run}.log" | tail -n 1
    done
  done
done
arms=()
for arm in $ARMS; do arms+=("${arm%%=*}"); done
"$PYTHON" "$here/compare.py" --results_csv "$WORK_DIR/results.csv" --experiments "${arms[@]}" --baseline "$BASELINE" \
  --group_by_prefix ${REAL_COUNTS:+--by_count} --output_dir "$WORK_DIR/tables"
