#!/usr/bin/env bash
# Usage: digits.sh PROGRAM DATA
# The trained models of examples/data read the digits there, with their own attention at every precision
# that it has: at most 4 of 200 wrong. So they do at int8 with the attention of softmax's model swapped
# for LATTE, which needs no training.
set -euo pipefail
program=$1 data=$2

# reads MODEL OPTIONS...
reads() {
  local model=$1 report accuracy
  shift
  report=$("$program" --model "$data/digits_$model.safetensors" --images "$data/digits_images.idx" \
    --labels "$data/digits_labels.idx" --json "$@")
  accuracy=$(sed 's/.*"accuracy":\([0-9.]*\).*/\1/' <<<"$report")
  awk -v accuracy="$accuracy" 'BEGIN { exit !(accuracy >= 0.98 && accuracy <= 1) }' ||
    { echo "$model $*: accuracy is $accuracy; $report" >&2; exit 1; }
  echo "$model $*: $accuracy"
}

for model in softmax inhibitor latte; do
  for precision in fp32 int8; do reads $model --precision $precision; done
done
reads bitformer
reads softmax --mechanism latte
