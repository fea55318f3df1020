#!/usr/bin/env bash
# Usage: scripts/test_neon64.sh
# From a bare Debian 12 machine to the unit tests on AArch64: cross-compiles them into build-neon64/ and
# runs them under qemu-user, which says nothing about speed. The emulator is slow: a random 3% of the
# sweeps runs, chosen by LOWATT_TEST_SEED; LOWATT_TEST_SAMPLE=100 runs all.
set -euo pipefail
. "$(dirname "$0")/common.sh"

say "Lowatt tests for AArch64: installs what is missing, builds into build-neon64/, runs ctest under qemu"
scripts/setup.sh neon64
configure_preset neon64
sed -n 's/^-- Lowatt: without/Left out:/p' "$log"
build build-neon64 all

sample_sweeps 3
# Every pair of 32768 tokens, to see how much memory that takes: the same on any processor.
export GTEST_FILTER=-Allocation/*.LongSequenceStaysWithinCacheAndWorkspace
say "Left out: Allocation/*.LongSequenceStaysWithinCacheAndWorkspace, which an emulator takes too long for"
run_tests build-neon64 "$@" || fail "some tests failed, see above."
