#!/usr/bin/env bash
# Usage: encrypted_table.sh PROGRAM [largest number of tokens] [options of the program]
# The table in docs/encrypted.md: PROGRAM (build/examples/encrypted) for 2, 4 and 8 tokens at dim 2 and 4.
# All of it takes an hour and a half of one processor; `encrypted_table.sh PROGRAM 2` is the first two rows.
set -euo pipefail
program=$1 largest=${2-8}
shift $(($# < 2 ? $# : 2))

python3 -c 'import sys' || { echo "lowatt: python3 is missing" >&2; exit 1; }
echo "| n | d | mechanism | bits | bootstraps | s per bootstrap | s | equal |"
echo "|---|---|---|---|---|---|---|---|"
for tokens in 2 4 8; do
  ((tokens <= largest)) || break
  for dim in 2 4; do
    "$program" --json --tokens "$tokens" --dim "$dim" "$@" | python3 -c '
import json, sys
report = json.load(sys.stdin)
def text(figure, form): return "-" if figure is None else format(figure, form)
for key, name in (("inhibitor", "Inhibitor"), ("dot", "dot product"), ("softmax", "table softmax")):
    of = lambda figure: report[figure + "_" + key]
    print("|", " | ".join([str(report["tokens"]), str(report["dim"]), name, str(of("width")),
          str(of("bootstraps")), text(of("seconds_per_bootstrap"), ".3f"),
          "refused" if of("refused") else text(of("seconds"), ".1f"),
          "-" if of("seconds") is None else str(report["equal"]).lower()]), "|")'
  done
done
