#!/usr/bin/env bash
# Usage: plain_dispatch.sh WORK COMPILER...
# No CMake, run-time choice: the README's own lines, with this build's compiler and without optimisation.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) work=$1
shift

mkdir -p "$work"
cd "$work"
echo '#include <lowatt/dispatch/instantiate.hpp>' >kernels.cpp
cp "$here/main.cpp" "$here/known_answer.hpp" .
awk '/^```/ { inside = !inside; block = ""; next } inside { block = block $0 "\n" }
  inside && /-DLOWATT_DISPATCHED main.cpp/ { printf "%s", block; found = 1 }
  END { exit !found }' "$here/../../README.md" >lines.sh
sed -i "s|g++ -std=c++20 -O3 -ffp-contract=off -I include|$* -O0 -ffp-contract=off|" lines.sh
bash -euo pipefail lines.sh

./app
LOWATT_ARCH=sse2 ./app
