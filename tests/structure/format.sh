#!/usr/bin/env bash
# Usage: format.sh ROOT
# Checks that clang-format would change nothing. Versions format differently: 14 is Debian 12's.
set -euo pipefail
cd "$1"

tool=$(command -v clang-format-14 || command -v clang-format || true)
if [[ -z $tool ]]; then
  echo "skipped: clang-format is not installed"
  exit 77
fi
if ! "$tool" --version | grep -q 'version 14\.'; then
  echo "skipped: clang-format 14 is needed, $tool is $("$tool" --version)"
  exit 77
fi
find include tests bench examples -name '*.hpp' -o -name '*.cpp' | sort |
  xargs "$tool" --dry-run --Werror
echo "all sources are formatted"
