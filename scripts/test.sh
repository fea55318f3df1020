#!/usr/bin/env bash
# Usage: scripts/test.sh --long, or scripts/test.sh [CTEST OPTION...]
# From a bare Debian 12 machine to ctest's summary: all targets in Release, every header alone, all
# tests. LOWATT_TEST_SAMPLE and LOWATT_TEST_SEED thin out the sweeps (see tests/support/sweep.hpp). With --long
# much more: see test_long.sh.
set -euo pipefail
. "$(dirname "$0")/common.sh"
if [[ ${1-} == --long ]]; then
  (($# == 1)) || fail "--long takes no other options, but there is '$2'."
  exec scripts/test_long.sh
fi

say "Lowatt tests: installs what is missing, builds into build/, runs ctest"
scripts/setup.sh test
configure build -DLOWATT_BUILD_EXAMPLES=ON -DLOWATT_BUILD_BENCH=ON -DLOWATT_BUILD_TESTS=ON
build build all all_verify_interface_header_sets
run_tests build --label-exclude long "$@" || fail "some tests failed, see above."
