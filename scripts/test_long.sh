#!/usr/bin/env bash
# Usage: scripts/test.sh --long
# All tests with all that can be installed, then again: with static choice, in Debug by clang with address,
# undefined-behaviour and thread sanitizers, on AArch64 under qemu; every fuzzer for a minute; then by clang
# in Release and by g++ in Debug. Goes on after a failure; ends with the minutes that each took and what failed.
set -uo pipefail
. "$(dirname "$0")/common.sh"

times=() failed=()
# step NAME COMMAND...
step() {
  local name=$1 began=$SECONDS
  shift
  say "$name"
  "$@" || failed+=("$name")
  times+=("$(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s: $name")
}

for part in training docs mpi; do scripts/setup.sh "$part" || exit 1; done
step "g++, Release, run-time choice" scripts/test.sh
step "static choice, and encryption at all widths" run_tests build --label-regex long
step "a few steps of training" scripts/train.sh --smoke
step "clang, Debug, address and undefined-behaviour sanitizers" scripts/test_preset.sh sanitize
# OpenMP's and oneTBB's own libraries are not compiled with it: their executors are left out.
step "clang, Debug, thread sanitizer" scripts/test_preset.sh sanitize-thread \
  --tests-regex 'cache|split|soak|05_own_executor'
step "AArch64 under qemu" scripts/test_neon64.sh
step "fuzzers" scripts/fuzz.sh 60
step "clang, Release" scripts/test_preset.sh clang
step "g++, Debug" scripts/test_preset.sh debug

printf '%s\n' "${times[@]}"
((${#failed[@]} == 0)) || fail "failed: $(printf '%s; ' "${failed[@]}")"
say "All passed"
