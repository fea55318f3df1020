#!/usr/bin/env bash
# Usage: plot.sh ROOT WORK
# bench/plot.py draws sample.json into WORK: medians, all figures, and a sentence for what it cannot
# draw. bench/table.py prints it.
set -euo pipefail
root=$1 work=$2
sample=$root/tests/bench/sample.json
failed=0

python=$("$root/scripts/python_for_figures.sh" 2>&1) || { echo "skipped: $python"; exit 77; }

# expect WHAT EXPECTED ACTUAL
expect() {
  if [[ $3 == *"$2"* ]]; then
    echo "$1: as expected"
  else
    printf '%s: expected\n%s\nbut there is\n%s\n' "$1" "$2" "$3"
    failed=1
  fi
}

plot() { PYTHONDONTWRITEBYTECODE=1 "$python" "$root/bench/plot.py" "$@" 2>&1; }

rm -rf "$work"
mkdir -p "$work"
echo 'no JSON' >"$work/text"
echo '[1, 2]' >"$work/list.json"
echo '{"benchmarks": [{"name": "other/program"}]}' >"$work/other.json"
sed 's/1\.25/3.25/' "$sample" >"$work/slower.json"

expect "medians of repetitions and of files" \
  "softmax/fp32 4.2 46.0, inhibitor/int8 1.375 60.0, no reference, no packing" \
  "$(cd "$root/bench" && PYTHONDONTWRITEBYTECODE=1 "$python" - "$sample" "$work/slower.json" <<'END'
import sys, results as read
results = read.medians_of(sys.argv[1:])
for kernel in ["softmax/fp32", "inhibitor/int8"]:
    name = read.Name(kernel, "avx512icl", "prefill", 128, 64)
    print(kernel, *(round(results[name, counter], 3) for counter in read.COUNTERS), end=", ")
print("a reference" if any(name.level == "reference" for name, _ in results) else "no reference",
      "packing" if any(name.phase == "pack" for name, _ in results) else "no packing", sep=", ")
END
)"

expect "figures" "$work/svg/prefill-d64.svg
$work/svg/decode-d64.svg
$work/svg/ceiling-d64.svg" "$(plot "$sample" --out "$work/svg")"
expect "kernels" "eigen/fp32 softmax/fp32 inhibitor/int8" \
  "$(grep -oE '(softmax|eigen|inhibitor)/[a-z0-9]+' "$work/svg/prefill-d64.svg" | xargs)"
expect "best level" "level avx512icl" "$(<"$work/svg/prefill-d64.svg")"
expect "groups of bars" "softmax/fp32 inhibitor/int8" \
  "$(grep -oE '(softmax|eigen|inhibitor)/[a-z0-9]+' "$work/svg/ceiling-d64.svg" | xargs)"
expect "another level" "$work/avx2/prefill-d64.png" \
  "$(plot "$sample" --out "$work/avx2" --level avx2 --format png)"
plot "$sample" --best --out "$work/best" >"$work/best.txt"
if cmp -s "$work/svg/prefill-d64.svg" "$work/best/prefill-d64.svg"; then
  echo "best: expected another figure than that of the medians"
  failed=1
fi
expect "PNG" "PNG" "$(head -c 4 "$work/avx2/prefill-d64.png")"

table() { PYTHONDONTWRITEBYTECODE=1 "$python" "$root/bench/table.py" "$@" 2>&1; }
expect "table: best of repetitions, softmax first" \
  "| softmax/fp32/avx512icl | 4.00 (1.00x) | 3.70 (1.00x) | 12.00 (1.00x) |
| softmax/fp32/avx2 | 6.00 (0.67x) | - | - |
| eigen/fp32/avx512icl | 5.10 (0.78x) | - | - |
| inhibitor/int8/avx512icl | 1.00 (4.00x) | 1.15 (3.22x) | 2.60 (4.62x) |" "$(table "$sample")"
expect "table: another baseline" "| softmax/fp32/avx2 | 6.00 (1.00x) | - | - |" \
  "$(table "$sample" --baseline softmax/fp32/avx2)"
expect "table: no such baseline" "lowatt: latte/int8/amx is not among the results" \
  "$(table "$sample" --baseline latte/int8/amx)"

# refuse WHAT SENTENCE ARGUMENTS...
refuse() {
  local what=$1 sentence=$2 output
  shift 2
  if output=$(plot "$@" --out "$work/none"); then
    echo "$what: expected to fail"
    failed=1
  fi
  expect "$what" "lowatt: $sentence" "$output"
}
refuse "no such file" "cannot read $work/missing" "$work/missing"
refuse "no JSON" "$work/text is not JSON of lowatt_bench" "$work/text"
refuse "other JSON" "$work/list.json is not JSON of lowatt_bench" "$work/list.json"
refuse "other names" "nothing to draw" "$work/other.json"
refuse "level that was not measured" "nothing was measured at level amx, only at avx2, avx512icl" \
  "$sample" --level amx
exit $failed
