#!/usr/bin/env bash
# Usage: modes.sh WORK COMPILER...
# Static choice in the languages and dialects that users compile in, without a warning.
set -euo pipefail
here=$(dirname "$0") work=$1
shift
mkdir -p "$work"

build_and_run() {
  local name=$1
  shift
  "$@" -Wall -Wextra -Werror "$here/main.cpp" -o "$work/$name"
  echo "$name"
  "$work/$name"
}
build_and_run no_exceptions_no_rtti "$@" -fno-exceptions -fno-rtti
build_and_run cxx23 "$@" -std=c++2b
