#!/usr/bin/env bash
# Usage: marches.sh COMPILER...
# Static choice compiles, without a warning, for CPUs on both sides of every level's boundary.
set -euo pipefail
here=$(dirname "$0")
# GCC 12's own AVX-512 headers give false alarms.
no_false_alarms=(-Wno-unknown-warning-option -Wno-uninitialized -Wno-maybe-uninitialized)
for march in x86-64-v2 haswell znver3 skylake-avx512 cascadelake icelake-server sapphirerapids; do
  echo "-march=$march"
  "$@" -march=$march -Wall -Wextra -Werror "${no_false_alarms[@]}" -S -o /dev/null "$here/main.cpp"
done
