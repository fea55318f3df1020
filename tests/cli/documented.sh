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

python=
for candidate in python3 /usr/bin/python3; do
  "$candidate" -c 'import matplotlib' 2>/dev/null && { python=$candidate; break; }
done

awk '/^```/ { inside = $0 == "```sh"; next } inside' "$root/docs/dispatch.md" "$root/docs/calibration.md" |
  sed "s|^python3 \(.*\) --out|${python:-:} \1 --step 32 --out|" >commands.sh
export PYTHONDONTWRITEBYTECODE=1
bash -euxo pipefail commands.sh

[[ -s layer0.json ]]
if [[ -z $python ]]; then
  echo "figures skipped: no python3 has the module matplotlib (Debian's package python3-matplotlib)"
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
