#!/usr/bin/env bash
# Usage: doxygen.sh ROOT WORK
# Doxygen makes of the documents and headers, without a warning, pages that hold the headers' comments and
# whose links and pictures are there.
set -euo pipefail
root=$1 work=$2

command -v doxygen >/dev/null || { echo "skipped: no doxygen (Debian's package doxygen)"; exit 77; }
"$root/docs/doxygen/build.sh" "$work"
cd "$work/html"

expect() {
  grep -qF "$2" "$1" || { echo "$1 does not say: $2" >&2; exit 1; }
}
expect classlowatt_1_1KvCache.html "Any number of threads may attend, fork or save one cache at a time"  # before a class,
expect classlowatt_1_1KvCache.html "cache({.kv_heads = 8"  # an example in it,
expect structlowatt_1_1Options.html "default: LOWATT_ARCH, else the best"  # behind a member,
expect structlowatt_1_1Latte.html "Default 1/sqrt(head_dim)"  # behind one, on two lines,
expect namespacelowatt.html "Nothing is written on failure"  # before a function
expect md_docs_latte.html "nibble_position()"

missing=$(grep -ohE '(href|src)="[^"#]+' ./*.html | sed 's/.*="//' | sort -u |
  grep -vE '^(https?|javascript):' |
  while read -r target; do [[ -e $target ]] || echo "$target"; done)
[[ -z $missing ]] || { echo "linked, but not there: $missing" >&2; exit 1; }
echo "$(find . -name '*.html' | wc -l) pages"
