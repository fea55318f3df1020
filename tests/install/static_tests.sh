#!/usr/bin/env bash
# Usage: static_tests.sh TESTS WORK COMPILER...
# The tests of masks, which run every kernel, and a sample of Bitformer's, which compare with its
# reference, with static choice: at the baseline and for this CPU.
set -euo pipefail
tests=$1 work=$2
shift 2
mkdir -p "$work"
flags=(-O1 -ffp-contract=off "-I$tests")
export LOWATT_TEST_SAMPLE=10
for march in x86-64 native; do
  for test in mask_test bitformer_test; do
    echo "-march=$march: $test"
    "$@" -march=$march "${flags[@]}" "$tests/$test.cpp" -o "$work/$test" -lgtest -lgtest_main -pthread
    "$work/$test" --gtest_brief=1
  done
done
