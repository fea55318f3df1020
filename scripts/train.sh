#!/usr/bin/env bash
# Usage: train.sh [--smoke]
# Trains and judges every model of docs/accuracy.md (examples/training/plan.txt), two at a time on one
# core each, then draws its figures and fills its tables. Runs that are done are skipped and those that
# were killed are resumed: start it again at any time. Everything lies in build/training.
# --smoke: a few steps of every mechanism instead, in under three minutes.
set -euo pipefail
. "$(dirname "$0")/common.sh"

case ${1-} in
  '' | --smoke) ;;
  *) echo "usage: scripts/train.sh [--smoke]" >&2; exit 2 ;;
esac

scripts/setup.sh build
scripts/setup.sh training
configure build
build build train
# One core per run; OpenBLAS would start a thread for each core, to wait.
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
export train=build/examples/training/train data=build/training-data runs=build/training
examples/training/fetch.sh "$data"

if [[ ${1-} == --smoke ]]; then
  runs=build/training-smoke
  rm -rf "$runs"
  small=(--data "$data" --log-every 5 --checkpoint-every 10 --warmup 5 --test-limit 100)
  "$train" --task adding --attention softmax --steps 20 "${small[@]}" --out "$runs/adding"
  "$train" --task mnist --attention softmax --steps 20 "${small[@]}" --out "$runs/softmax"
  for variant in inhibitor inhibitor-unsigned latte latte-global "bitformer --planes 1" "bitformer --planes 4"; do
    say "mnist, $variant"
    # shellcheck disable=SC2086  # the variant may hold an option
    "$train" --task mnist --attention $variant --from "$runs/softmax/checkpoint.pt" --steps 10 --batch 32 \
      "${small[@]}" --out "$runs/${variant// /}"
  done
  say "Smoke training passed."
  exit
fi

# one NAME SEED OPTIONS...
one() {
  local name=$1 seed=$2 options=() folder=$runs/$1-$2
  shift 2
  while (($# > 0)); do
    if [[ $1 == --from ]]; then
      options+=(--from "$runs/$2-$seed/checkpoint.pt")
      shift 2
    else
      options+=("$1")
      shift
    fi
  done
  # A run of other options than the plan's is none of the plan's.
  if [[ -s $folder/options.txt && $(<"$folder/options.txt") != "${options[*]}" ]]; then
    echo "$name-$seed: its options have changed, it starts anew"
    rm -r "$folder"
  fi
  [[ ! -s $folder/result.json ]] || return 0
  mkdir -p "$folder"
  echo "${options[*]}" >"$folder/options.txt"
  if "$train" "${options[@]}" --seed "$seed" --data "$data" --out "$folder" --resume \
    >"$folder/log.txt" 2>&1; then
    echo "$name-$seed: $(tail -n 1 "$folder/metrics.csv")"
  else
    echo "$name-$seed failed: $(tail -n 1 "$folder/log.txt")"
    return 1
  fi
}
export -f one

pending=()
run_pending() {
  ((${#pending[@]} > 0)) || return 0
  printf '%s\n' "${pending[@]}" | xargs -P 2 -I LINE bash -c 'set -f; one LINE' || fail "some runs failed, see above."
  pending=()
}
while read -r seeds name options; do
  case $seeds in
    '' | '#'*) ;;
    wait) run_pending ;;
    *) for seed in ${seeds//,/ }; do pending+=("$name $seed $options"); done ;;
  esac
done <examples/training/plan.txt
run_pending

python=$(scripts/python_for_figures.sh)
"$python" examples/training/report.py "$runs" docs
