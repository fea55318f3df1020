#!/usr/bin/env bash
# Usage: plain_dispatch.sh WORK COMPILER...
# No CMake, run-time choice: the five lines of the README.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) work=$1
shift

mkdir -p "$work"
cd "$work"
echo '#include <lowatt/dispatch/instantiate.hpp>' >kernels.cpp
kernels=("$@" -ffp-contract=off -c kernels.cpp)
avx2=(-mavx2 -mfma -mbmi -mbmi2 -mlzcnt -mpopcnt -mf16c)
avx512=("${avx2[@]}" -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512cd
  -mprefer-vector-width=512)
avx512icl=("${avx512[@]}" -mavx512vnni -mavx512vbmi -mavx512vbmi2 -mavx512bitalg -mavx512vpopcntdq)

"${kernels[@]}" -o sse2.o
"${kernels[@]}" "${avx2[@]}" -o avx2.o
"${kernels[@]}" "${avx512[@]}" -o avx512.o
"${kernels[@]}" "${avx512icl[@]}" -o avx512icl.o
"$@" -DLOWATT_DISPATCHED "$here/main.cpp" sse2.o avx2.o avx512.o avx512icl.o -o program

./program
LOWATT_ARCH=sse2 ./program
