#!/usr/bin/env bash
# Usage: documented.sh ROOT BUILD WORK
# The commands in docs/dispatch.md and docs/calibration.md work, one block after another; the sweep takes every
# 32nd point.
set -euo pipefail
root=$1 build=$2 work=$3
rm -rf "$work"
mkdir -p "$work"
cd "$work"
ln -s "$root/examples" examples
ln -s "$build" build

python=$("$root/scripts/python_for_figures.sh" 2>no_python.txt) || true

awk '/^```/ { inside = $0 == "```sh"; next } inside' "$root/docs/dispatch.md" "$root/docs/calibration.md" |
  sed "s|^python3 \(.*\) --out|${python:-:} \1 --step 32 --out|" >commands.sh
export PYTHONDONTWRITEBYTECODE=1
bash -euxo pipefail commands.sh

[[ -s layer0.json ]]
if [[ -z $python ]]; then
  echo "figures skipped: $(cat no_python.txt)"
  exit 0
fi
for layer in layer0 layer1; do
  grep -q "$layer: 4 heads, 128 keys" "figures/$layer.svg"
done
if output=$("$python" "$root/examples/trade_off.py" --program build/examples/attend_calibrate --name x \
  --out none --q missing --k missing --v missing 2>&1); then
  echo "missing tensors: expected to fail"
  exit 1
fi
[[ $output == "lowatt: 'missing' does not exist" ]]
