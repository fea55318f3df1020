#!/usr/bin/env bash
# Usage: single_header.sh WORK SINGLE_HEADER PROJECT COMPILER...
# The single header in the place of every other one: a baseline program, and the golden cases with
# kernels for this CPU.
set -euo pipefail
work=$1 single=$2 project=$3
shift 3

rm -rf "$work"
mkdir -p "$work"
(cd "$project/include" && find lowatt -name '*.hpp') | while read -r header; do
  mkdir -p "$work/$(dirname "$header")"
  echo "#include \"$single\"" >"$work/$header"
done
flags=(-std=c++20 -I"$work")
"$@" "${flags[@]}" -O0 "$(dirname "$0")/main.cpp" -o "$work/baseline"
"$work/baseline"

"$@" "${flags[@]}" -O1 -march=native -DLOWATT_TEST_DATA="\"$project/tests/golden\"" \
  -I"$project/tests" -I"$project/examples/support" \
  "$project"/tests/golden_test.cpp "$project"/examples/support/{file,float_array,npy,tensor}.cpp \
  -lgtest_main -lgtest -o "$work/golden"
"$work/golden" --gtest_brief=1
