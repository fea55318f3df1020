#!/usr/bin/env bash
# Usage: bench/peers/run.sh [ROUNDS [CPU]]
# Installs what is missing, builds lowatt_peers_bench, and measures our kernels, oneDNN, OpenBLAS and
# ONNX Runtime by turns, shape by shape, on one thread of one CPU. Prints a Markdown table and writes
# build/peers.json.
set -euo pipefail
. "$(dirname "$0")/../../scripts/common.sh"

rounds=${1-5}
cpu=${2-0}
[[ $# -le 2 && $rounds =~ ^[1-9][0-9]?$ && $cpu =~ ^[0-9]+$ ]] || {
  echo "usage: bench/peers/run.sh [ROUNDS [CPU]], with 1 to 99 rounds" >&2
  exit 2
}
here=bench/peers
work=build/peers

install_packages() {
  local missing=() package as_root=()
  for package in libdnnl-dev libopenblas-dev python3-onnx; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
      missing+=("$package")
  done
  # By command: these also come from elsewhere, and then not with Debian's packages beside them.
  command -v node >/dev/null || missing+=(nodejs)
  command -v npm >/dev/null || missing+=(npm)
  ((${#missing[@]} > 0)) || return 0
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      fail "these packages are missing, and installing them needs root or sudo: ${missing[*]}"
    as_root=(sudo)
  fi
  say "Installing: ${missing[*]}"
  "${as_root[@]}" apt-get update -q >"$log" 2>&1 </dev/null ||
    { cat "$log" >&2; echo "apt-get update failed; trying with the lists that are there" >&2; }
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}" >"$log" 2>&1 </dev/null ||
    { cat "$log" >&2; fail "apt-get could not install: ${missing[*]}"; }
}

install_onnxruntime() {
  [[ ! -f $work/node_modules/onnxruntime-node/package.json ]] || return 0
  say "Installing onnxruntime-node into $work/"
  # Skipped: its own download of GPU libraries.
  npm install --prefix "$work" --no-audit --no-fund onnxruntime-node \
    --onnxruntime-node-install=skip >"$log" 2>&1 </dev/null ||
    { cat "$log" >&2; fail "npm could not install onnxruntime-node, see above."; }
}

scripts/setup.sh build
command -v dpkg-query >/dev/null || fail "this script knows Debian's packages only."
install_packages
mkdir -p "$work"
install_onnxruntime
taskset -c "$cpu" true 2>"$log" || fail "CPU $cpu cannot be used: $(<"$log")"
# What was looked for before it was installed is remembered as missing.
configure build -DLOWATT_BUILD_BENCH=ON '-ULOWATT_ONEDNN_*' -UOpenBLAS_DIR
build build lowatt_peers_bench

ours=build/bench/peers/lowatt_peers_bench
"$ours" --shapes >"$work/shapes.json"
# Debian's module belongs to Debian's Python, whatever else is called python3.
/usr/bin/python3 $here/make_models.py "$work/shapes.json" "$work/models" ||
  fail "the ONNX models could not be made, see above."
shapes=$("$ours" --benchmark_list_tests | sed -n 's|^softmax/fp32/[^/]*/||p')

say "Measuring on CPU $cpu, $rounds rounds"
rm -rf "$work/rounds"
for ((round = 1; round <= rounds; ++round)); do
  folder=$work/rounds/$(printf '%02d' "$round")
  mkdir -p "$folder"
  for shape in $shapes; do
    taskset -c "$cpu" "$ours" --benchmark_filter="/$shape\$" --benchmark_min_time=0.2 \
      --benchmark_out="$folder/${shape//\//-}-ours.json" --benchmark_out_format=json \
      >/dev/null 2>"$log" || { cat "$log" >&2; fail "lowatt_peers_bench failed, see above."; }
    taskset -c "$cpu" node $here/onnxruntime.mjs "$work" "$shape" \
      >"$folder/${shape//\//-}-peer.json" || fail "onnxruntime.mjs failed, see above."
  done
done

echo
echo "Nanoseconds per query-key pair and head (times as fast as our softmax/fp32 in the same round):"
echo
node $here/table.mjs "$work/rounds" build/peers.json
