#!/usr/bin/env bash
# Usage: plain_static.sh WORK COMPILER...
# No CMake, static choice: one line.
set -euo pipefail
here=$(dirname "$0") work=$1
shift

mkdir -p "$work"
"$@" "$here/main.cpp" -o "$work/baseline"
"$work/baseline"

"$@" -march=native "$here/main.cpp" -o "$work/native"
"$work/native"
