#!/usr/bin/env bash
# Usage: promises.sh ROOT BUILD
# Every test that docs/promises.md names exists.
set -euo pipefail
root=$1 build=$2

names=$(grep -oE '`[A-Za-z]+[A-Za-z0-9]*\.[A-Za-z0-9_.-]+`' "$root/docs/promises.md" | tr -d '`' | grep -v '\.hpp$' | sort -u)
tests=$(ctest --test-dir "$build" --show-only)
count=0
while read -r name; do
  case $name in
    [a-z]*) grep -q "#[0-9]*: $name\$" <<<"$tests" ;;
    *) grep -qrE "^(TEST|TEST_F|TEST_P|TYPED_TEST)\(${name%%.*}, ${name#*.}\)" --include='*_test.cpp' "$root/tests" ;;
  esac || { echo "docs/promises.md names $name, which is not a test" >&2; exit 1; }
  count=$((count + 1))
done <<<"$names"
((count > 0)) || { echo "docs/promises.md names no tests" >&2; exit 1; }
echo "$count tests hold the promises"
