#!/usr/bin/env bash
# Usage: scripts/test_preset.sh PRESET [CTEST OPTION...]
# The tests once more in build-PRESET/, configured by a preset of CMakePresets.json, on a random sample of the
# sweeps: LOWATT_TEST_SAMPLE percent of them (10), of LOWATT_TEST_SEED, which is printed to repeat a run.
# Tests that do not depend on compiler and flags are left out, as are those under qemu, which the
# sanitizers do not know. Where options choose tests, no more is built than the programs that they are named after.
set -euo pipefail
. "$(dirname "$0")/common.sh"
preset=${1:?a preset of CMakePresets.json}
shift

scripts/setup.sh sanitize
configure_preset "$preset"
left_out='structure|docs|nehalem|install|bench|long'
[[ $preset != debug ]] || left_out+='|odr'  # they compile by themselves, as in Release
chosen=(--label-exclude "$left_out" "$@")
# What clang's optimiser shares between units is looked for by preset clang.
[[ $preset != sanitize ]] || chosen+=(--exclude-regex '^odr.*-O2$')
targets=(all)
(($# == 0)) || mapfile -t targets < <(ctest --test-dir "build-$preset" --show-only "${chosen[@]}" |
  sed -n 's/^ *Test *#[0-9]*: [a-z]*\.//p')
build "build-$preset" "${targets[@]}"
sample_sweeps 10
run_tests "build-$preset" "${chosen[@]}" ||
  fail "some tests of the preset $preset failed, see above."
